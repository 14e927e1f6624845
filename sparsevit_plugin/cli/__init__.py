"""The `benco` command: `main` dispatches, one module a verb."""
