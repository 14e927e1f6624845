"""Puts the mended baselines into IMDLBenCo's model registry, in the place of upstream's."""


def register() -> None:
    """Register every model of this folder under the name that upstream gives it."""
    from sparsevit_plugin.zoo import backbones, cat_net, published, timm_localiser

    backbones.register()
    timm_localiser.register()
    cat_net.register()
    published.register()
