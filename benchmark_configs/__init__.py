"""How models are benchmarked: training recipes, augmentations and protocols."""
