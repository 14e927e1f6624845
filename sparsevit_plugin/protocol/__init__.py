"""Protocols: which models are trained and tested on which sets, planned, run and resumed."""

KEEP = ("all", "best", "none")
"""What is kept of a finished training: everything, its best weights, or nothing but its record."""
