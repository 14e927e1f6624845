"""The laboratory's protocol cards."""
