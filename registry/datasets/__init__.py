"""Data set cards."""
