"""Protocols that compare variants of one model: what is varied is a row."""
