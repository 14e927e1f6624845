"""Perturbations of test photographs: what a robustness figure was measured under.

A perturbation is written `KIND:STRENGTH`. The transforms are those of IMDLBenCo's robustness test,
applied to the photograph before it is fitted to the model's size; masks stay as they are. Each draw
depends on (seed, image) alone.
"""

from typing import Any

from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.conventions import UNPERTURBED

_QUALITIES = range(1, 101)


class Perturbation:
    """A transform that changes pixels and never moves them, called as albumentations are.

    Args:
        kind: `jpeg`, `blur` or `noise`.
        strength: JPEG quality (1 to 100); side of the Gaussian kernel in pixels (odd); variance of
            the noise on the 8-bit scale, as upstream has it (not its standard deviation).

    Attributes:
        jpeg_quality: The quality of a JPEG perturbation, None for others.
    """

    moves_pixels = False

    def __init__(self, kind: str, strength: int) -> None:
        from IMDLBenCo.transforms import robustness_wrapper

        wrappers = {
            "jpeg": robustness_wrapper.JpegCompressionWrapper,
            "blur": robustness_wrapper.GaussianBlurWrapper,
            "noise": robustness_wrapper.GaussianNoiseWrapper,
        }
        self.jpeg_quality = strength if kind == "jpeg" else None
        self.transform = next(iter(wrappers[kind]([strength])))[1]

    def __call__(self, image: NDArray, mask: NDArray) -> dict[str, Any]:
        """Perturb a photograph (uint8, H x W x 3) and return it with its mask by name."""
        return {"image": self.transform(image=image)["image"], "mask": mask}


def parse_perturbation(text: str) -> tuple[str, int] | None:
    """Split `jpeg:75` into kind and strength; None for `none`.

    Raises:
        UserError: It is not of this form, or the strength means nothing for the kind.
    """
    if text == UNPERTURBED:
        return None
    kind, _, number = text.partition(":")
    if kind not in ("jpeg", "blur", "noise") or not number.isdigit():
        raise UserError(
            f'perturbation "{text}": expected none, jpeg:QUALITY, blur:KERNEL or noise:VARIANCE'
        )
    strength = int(number)
    if kind == "jpeg" and strength not in _QUALITIES:
        raise UserError(f'perturbation "{text}": a JPEG quality lies between 1 and 100')
    if kind == "blur" and strength % 2 == 0:
        raise UserError(f'perturbation "{text}": a blur kernel has an odd side')
    if strength < 1:
        raise UserError(f'perturbation "{text}": the strength must be at least 1')
    return kind, strength


def build_perturbation(text: str) -> Perturbation | None:
    """Return the transform of a perturbation, None for `none`.

    Raises:
        UserError: See `parse_perturbation`.
    """
    parts = parse_perturbation(text)
    return None if parts is None else Perturbation(*parts)
