"""Augmentation lists."""
