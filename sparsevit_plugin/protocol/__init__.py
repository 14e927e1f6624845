"""Protocols: which models are trained and tested on which sets, planned, run and resumed."""
