"""Ladders of perturbations and presets of social networks, one YAML file each."""
