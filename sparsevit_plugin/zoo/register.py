"""Puts the mended baselines into IMDLBenCo's model registry, in the place of upstream's."""


def register() -> None:
    """Register every model of this folder under the name that upstream gives it."""
