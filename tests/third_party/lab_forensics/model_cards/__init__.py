"""The laboratory's model cards."""
