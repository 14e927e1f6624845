"""The laboratory's dataset cards."""
