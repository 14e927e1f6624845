"""The published baselines of IMDLBenCo other than SparseViT and CAT-Net."""


def register() -> None:
    """Register each under the name that upstream gives it."""
    from IMDLBenCo.registry import MODELS

    from sparsevit_plugin.zoo.iml_vit import IML_ViT
    from sparsevit_plugin.zoo.mantra_net import MantraNet
    from sparsevit_plugin.zoo.mesorch import Mesorch
    from sparsevit_plugin.zoo.mscdi_net import MSCDI_Net
    from sparsevit_plugin.zoo.mvss_net import MVSSNet
    from sparsevit_plugin.zoo.object_former import ObjectFormer
    from sparsevit_plugin.zoo.pscc_net import PSCC_Net
    from sparsevit_plugin.zoo.span import SPAN
    from sparsevit_plugin.zoo.trufor import Trufor

    for model in (
        IML_ViT,
        MantraNet,
        Mesorch,
        MSCDI_Net,
        MVSSNet,
        ObjectFormer,
        PSCC_Net,
        SPAN,
        Trufor,
    ):
        MODELS.register_module(name=model.__name__, force=True, module=model)
