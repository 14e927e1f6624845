"""A laboratory's own model and data set: an example, and a test, of a third party's package."""
