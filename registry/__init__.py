"""What can be benchmarked: one card per model and per data set."""
