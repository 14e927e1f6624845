"""Put the plugin's models into IMDLBenCo's registry."""


def register() -> None:
    """Register SparseViT and its variants; IMDLBenCo's own stays reachable as `SparseViT_upstream`.

    Safe to call more than once.
    """
    # IMDLBenCo's models must be there before one of them is replaced: importing them later would
    # fail on the name that is taken. The import is slow, so it waits until models are asked for.
    import IMDLBenCo.model_zoo  # noqa: F401
    from IMDLBenCo.registry import MODELS

    from sparsevit_plugin.model.sparsevit import (
        SparseViT,
        SparseViT_small,
        SparseViT_tiny,
    )

    if not MODELS.has("SparseViT_upstream"):
        MODELS.register_module(name="SparseViT_upstream", module=MODELS.get("SparseViT"))
    for model in (SparseViT, SparseViT_small, SparseViT_tiny):
        MODELS.register_module(name=model.__name__, force=True, module=model)
