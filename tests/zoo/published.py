"""What the tests of the published baselines share: their names, models, inputs and upstream's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import IMDLBenCo
import torch
from torch import nn

from sparsevit_plugin.cards import load_model_card
from sparsevit_plugin.registration import get_model_class
from sparsevit_plugin.upstream import import_upstream
from sparsevit_plugin.zoo.offline import offline

NAMES = (
    "IML_ViT",
    "MSCDI_Net",
    "MVSSNet",
    "MantraNet",
    "Mesorch",
    "ObjectFormer",
    "PSCC_Net",
    "SPAN",
    "Trufor",
)
TRUFOR_FILE = Path(IMDLBenCo.__file__).parent / "statics/model_zoo/configs/trufor.yaml"


def card_of(name: str):
    card = load_model_card(name)
    assert card is not None, f"{name} has no card"
    return card


def smallest(name: str) -> tuple[int, dict[str, Any]]:
    """Side and constructor arguments of the least costly way to run a model."""
    card = card_of(name)
    return card.smallest.image_size, {**card.arguments, **card.smallest.arguments}


def build(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(1)
    return get_model_class(name)(**smallest(name)[1], **arguments)


def upstreams_way(name: str) -> dict[str, Any]:
    """The arguments that take back everything that the plugin mends."""
    return {mended.argument: mended.upstream for mended in card_of(name).mended}


def make_item(side: int, batch: int = 2, seed: int = 0, *, edge: bool = True) -> dict[str, Any]:
    """A batch as the harness gives it to a model: noise, rectangles, one authentic photograph."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.zeros(batch, 1, side, side)
    mask[0, :, side // 4 : side // 2, side // 4 : side // 2] = 1
    item = {
        "image": torch.randn(batch, 3, side, side, generator=draw),
        "mask": mask,
        "label": mask.flatten(1).amax(1).long(),
        "shape": torch.tensor([[side, side]] * batch),
        "name": [f"{number}.png" for number in range(batch)],
        "sample_index": torch.arange(batch),
        "if_predcit_label": True,
    }
    return {**item, "edge_mask": (mask > 0).float()} if edge else item


def build_upstream(name: str, state: dict[str, torch.Tensor]) -> nn.Module:
    """IMDLBenCo's own model in the smallest configuration, with the given weights."""
    side, arguments = smallest(name)
    with offline(_stand_ins(name, state)):
        model = _UPSTREAM[name](side, arguments)
    model.load_state_dict(state)
    return model


def _upstream(module: str, name: str) -> Callable[..., nn.Module]:
    return getattr(import_upstream(f"IMDLBenCo.model_zoo.{module}"), name)


def _part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def _stand_ins(name: str, state: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Files for the constructors that cannot do without; they are overwritten afterwards."""
    dncnn, extractor = _part(state, "model.dncnn."), _part(state, "featex.")
    return {"nothing": {}, "noiseprint": dncnn, "extractor": extractor}


def _mesorch(side: int, _arguments: dict[str, Any]) -> nn.Module:
    model = _upstream("mesorch.mesorch", "Mesorch")()
    model.resize = nn.Upsample(size=(side, side), mode="bilinear", align_corners=True)
    return model


_UPSTREAM: dict[str, Callable[[int, dict[str, Any]], nn.Module]] = {
    "IML_ViT": lambda _, given: _upstream("iml_vit.iml_vit", "IML_ViT")(**given),
    "MSCDI_Net": lambda _, given: _upstream("mscdi_net.MSCDI_Net", "MSCDI_Net")(
        backbone_weights_path="nothing", **given
    ),
    "MVSSNet": lambda _, given: _upstream("mvss_net.mvssnet", "MVSSNet")(**given),
    "MantraNet": lambda _, given: _upstream("mantra_net.mantranet", "MantraNet")(
        device="cpu", **given
    ),
    "Mesorch": _mesorch,
    "ObjectFormer": lambda side, given: _upstream("object_former.object_former", "ObjectFormer")(
        num_prototypes=2 * (side // 16) ** 2, **given
    ),
    "PSCC_Net": lambda _, given: _upstream("pscc_net.pscc_net", "PSCC_Net")(
        pretrain_path="", **given
    ),
    "SPAN": lambda _, given: _upstream("span.SPAN", "SPAN")("extractor", device="cpu", **given),
    "Trufor": lambda _, given: _upstream("trufor.trufor", "Trufor")(
        2, "noiseprint", "nothing", str(TRUFOR_FILE), **given
    ),
}
