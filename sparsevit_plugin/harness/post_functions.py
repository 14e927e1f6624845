"""Post functions: what a model's card asks to be added to each item.

Some take the item alone, as IMDLBenCo's do (`POSTFUNCS` in its registry). Others are told where the
item's pixels come from and read the photograph's file; these need `--fit grid`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from sparsevit_plugin.cards import ModelCard, load_model_card
from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.harness.config import Config
from sparsevit_plugin.harness.datasets import (
    NOTE_KEY,
    Origin,
    OriginFunction,
    PostFunction,
)
from sparsevit_plugin.harness.jpeg import RESAVED_QUALITY, Luma, luma_of, resave_luma
from sparsevit_plugin.harness.perturb import Perturbation

NOTE_RESAVED: Final = (
    f"no DCT coefficients of its own in use, those of a re-save at JPEG quality {RESAVED_QUALITY}"
)
NOTE_PERTURBED: Final = "DCT coefficients of the perturbed photograph"

_PILLOW_QUALITY: Final = 75  # Image.save's when none is given


@dataclass(frozen=True)
class Additions:
    """What is added to items; at most one of both.

    Attributes:
        post_function: Takes an item.
        origin_function: Takes an item and its origin.
    """

    post_function: PostFunction | None = None
    origin_function: OriginFunction | None = None


def additions(cfg: Config) -> Additions:
    """Return what a configuration's items need.

    The model's card says it, for the way that the constructor arguments choose. A model without a
    card has IMDLBenCo's post function of its name, as upstream finds it.

    Raises:
        UserError: The card names a post function that there is not, or one that reads the
            photograph's file, and photographs are not kept on their JPEG grid.
    """
    from IMDLBenCo.registry import POSTFUNCS

    known: dict[str, PostFunction] = {**POSTFUNCS.module_dict, **POST_FUNCTIONS}
    card = load_model_card(cfg.model)
    if card is None:
        wanted = f"{cfg.model.lower()}_post_func"
        found = next((f for name, f in known.items() if name.lower() == wanted), None)
        return Additions(post_function=found)
    name = card.input_for(cfg.model_arguments).post_function
    if name is None:
        return Additions()
    if name in ORIGIN_FUNCTIONS:
        if cfg.fit != "grid":
            raise UserError(_off_the_grid(cfg, card))
        return Additions(origin_function=ORIGIN_FUNCTIONS[name])
    if name not in known:
        hint = suggest(name, [*known, *ORIGIN_FUNCTIONS])
        raise UserError(f'card {cfg.model}: there is no post function "{name}".{hint}')
    return Additions(post_function=known[name])


def _off_the_grid(cfg: Config, card: ModelCard) -> str:
    others = [
        f"--{item.argument.replace('_', '-')} {item.upstream}"
        for item in card.mended
        if item.upstream_input is not None and item.upstream_input.fit == cfg.fit
    ]
    return (
        f"--fit {cfg.fit} moves pixels off the JPEG grid, and what {cfg.model} reads from the "
        f"photograph's file cannot follow: pass {' or '.join(['--fit grid', *others])}"
    )


def jpeg_coefficients(item: dict[str, Any], origin: Origin) -> None:
    """Add the luma's DCT coefficients and quantisation table, as the photograph's file has them.

    A photograph that was saved again as JPEG, to see what that does to the results, has the
    coefficients of that JPEG (of the last one, where it was not shrunk for it); one that was
    perturbed otherwise those of its new pixels.

    Adds:
        DCT_coef: int16, H x W of the item; 0 in the padding, as CAT-Net has it.
        qtables: float32, 8 x 8.
        input_note: Where they come from unless from the file.

    Raises:
        BadImage: The file's coefficients cannot be read.
    """
    luma, note = _luma_and_note(origin)
    window = origin.window
    height, width = item["image"].shape[-2:]
    # To the end of the item, not of the window: blocks that the photograph's border cuts are whole.
    inside = luma.coefficients[window.top : window.top + height, window.left : window.left + width]
    plane = np.zeros((height, width), np.int16)
    plane[: inside.shape[0], : inside.shape[1]] = inside
    item["DCT_coef"] = torch.from_numpy(plane)
    item["qtables"] = torch.from_numpy(luma.table.astype(np.float32))
    item[NOTE_KEY] = note


def _luma_and_note(origin: Origin) -> tuple[Luma, str]:
    if origin.transform is None:
        luma = luma_of(origin.path, origin.decoded, origin.notes)
        return luma, "" if luma.source == "file" else NOTE_RESAVED
    saved = None
    if isinstance(origin.transform, Perturbation):
        saved = origin.transform.last_save(origin.decoded, origin.transformed)
    if saved is None:
        return resave_luma(origin.transformed, origin.path), NOTE_PERTURBED
    pixels, quality = saved
    return resave_luma(pixels, origin.path, quality=quality), NOTE_PERTURBED


def resaved_tensor_coefficients(item: dict[str, Any]) -> None:
    """Add what IMDLBenCo's `cat_net_post_func` does, without the library jpegio that it needs.

    It casts the normalised image to 8 bits (values near 0, negative ones wrapped to 255 and below),
    saves that as JPEG with Pillow's defaults and reads the luma of the result. So the coefficients
    say nothing of the photograph's compression, and the table is that of quality 75 for every
    photograph. Chroma subsampling, which those defaults have, does not change the luma.

    Adds:
        DCT_coef: float64, H x W of the item, as IMDLBenCo's.
        qtables: float64, 8 x 8.
    """
    image: NDArray[np.float32] = item["image"].permute(1, 2, 0).numpy()
    # By way of an integer: the direct cast of a negative number is undefined.
    pixels = image.astype(np.int64).astype(np.uint8)
    luma = resave_luma(pixels, Path(item["name"]), quality=_PILLOW_QUALITY)
    height, width = image.shape[:2]
    if luma.coefficients.shape != (height, width):
        raise UserError(f"--image-size: {height} x {width} is no multiple of a JPEG block, 8")
    item["DCT_coef"] = luma.coefficients.astype(np.float64)
    item["qtables"] = luma.table.astype(np.float64)


POST_FUNCTIONS: Final[dict[str, PostFunction]] = {"cat_net_post_func": resaved_tensor_coefficients}
"""In the place of IMDLBenCo's of the same name."""

ORIGIN_FUNCTIONS: Final[dict[str, OriginFunction]] = {"jpeg_coefficients": jpeg_coefficients}
