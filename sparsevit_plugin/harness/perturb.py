"""Perturbations of test photographs: what a robustness figure was measured under.

A perturbation is written `KIND:STRENGTH`, and applied to the photograph before it is fitted to the
model's size. None moves a pixel: what shrinks a photograph enlarges it to its own size again, so
the mask stays as it is and every pixel is scored where it was. Each draw depends on (seed, image)
alone.

=================== ===============================================================================
jpeg:QUALITY        saved as JPEG (IMDLBenCo's wrapper: of QUALITY - 1 and QUALITY one is drawn, and
                    the channels reach the encoder as BGR)
blur:SIDE           Gaussian blur with a kernel of SIDE x SIDE pixels (IMDLBenCo's wrapper)
noise:VARIANCE      Gaussian noise of that variance on the 8-bit scale (IMDLBenCo's wrapper)
resize:PERCENT      shrunk to PERCENT of each side (mean of areas), enlarged again (bicubic)
double:Q1-Q2        saved as JPEG at quality Q1, and again at Q2
double:Q1-Q2@SIDE   the same, shrunk between the two where its longest side is over SIDE pixels, and
                    enlarged again after the second
social:NAME         the same with a preset's values, see `ladders.networks`
=================== ===============================================================================
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.harness.ladders import LADDER, ladders, networks
from sparsevit_plugin.results.conventions import UNPERTURBED

Pixels: TypeAlias = NDArray[np.uint8]

UPSTREAM_KINDS: Final = ("jpeg", "blur", "noise")
KINDS: Final = (*UPSTREAM_KINDS, "resize", "double", "social")

FORMS: Final = (
    "none, jpeg:QUALITY, blur:KERNEL, noise:VARIANCE, resize:PERCENT, double:QUALITY-QUALITY, "
    "double:QUALITY-QUALITY@LONGEST_SIDE or social:NAME"
)

_QUALITIES = range(1, 101)
_PERCENTS = range(1, 100)
_DOUBLE = re.compile(r"(\d+)-(\d+)(?:@(\d+))?")


class Perturbation(ABC):
    """A transform that changes pixels and never moves them, called as albumentations are."""

    moves_pixels = False

    def __call__(self, image: Pixels, mask: NDArray) -> dict[str, Any]:
        """Perturb a photograph (uint8, H x W x 3, RGB) and return it with its mask by name."""
        return {"image": self.perturb(image), "mask": mask}

    @abstractmethod
    def perturb(self, image: Pixels) -> Pixels:
        """Return the perturbed photograph, of the same size."""

    def last_save(self, image: Pixels, perturbed: Pixels) -> tuple[Pixels, int] | None:
        """Return what was last saved as JPEG, and its quality.

        Args:
            image: The photograph as it was.
            perturbed: What `perturb` made of it.

        Returns:
            None where that JPEG does not have the photograph's own grid, or there is none.
        """
        return None


class UpstreamPerturbation(Perturbation):
    """A perturbation of IMDLBenCo's robustness test.

    Args:
        kind: `jpeg`, `blur` or `noise`.
        strength: JPEG quality (1 to 100); side of the Gaussian kernel in pixels (odd); variance of
            the noise on the 8-bit scale, as upstream has it (not its standard deviation).
    """

    def __init__(self, kind: str, strength: int) -> None:
        from IMDLBenCo.transforms import robustness_wrapper

        wrappers = {
            "jpeg": robustness_wrapper.JpegCompressionWrapper,
            "blur": robustness_wrapper.GaussianBlurWrapper,
            "noise": robustness_wrapper.GaussianNoiseWrapper,
        }
        self.jpeg_qualities = (strength, strength - 1) if kind == "jpeg" else ()
        self.transform = next(iter(wrappers[kind]([strength])))[1]

    def perturb(self, image: Pixels) -> Pixels:
        """Return the perturbed photograph."""
        perturbed: Pixels = self.transform(image=image)["image"]
        return perturbed

    def last_save(self, image: Pixels, perturbed: Pixels) -> tuple[Pixels, int] | None:
        """Return the photograph as the encoder took it, and the quality that was drawn.

        Upstream gives the channels in the order of RGB where BGR is expected, so the luma that is
        saved is that of red and blue in each other's place. None for blur and noise.
        """
        swapped = np.ascontiguousarray(image[..., ::-1])
        for quality in self.jpeg_qualities:
            if np.array_equal(save(swapped, quality)[..., ::-1], perturbed):
                return swapped, quality
        return None


@dataclass(frozen=True)
class Resized(Perturbation):
    """Shrunk and enlarged again: the detail of a smaller photograph on the pixels of this one.

    Attributes:
        percent: Of each side, 1 to 99.
    """

    percent: int

    def perturb(self, image: Pixels) -> Pixels:
        """Return the perturbed photograph."""
        return enlarge(shrink(image, self.percent / 100), image.shape[:2])


@dataclass(frozen=True)
class Resaved(Perturbation):
    """Saved as JPEG twice, perhaps shrunk in between.

    Attributes:
        first: JPEG quality of the first save.
        second: Of the second.
        longest_side: In pixels; a larger photograph is shrunk to it before the second save. None
            for any size.
    """

    first: int
    second: int
    longest_side: int | None = None

    def perturb(self, image: Pixels) -> Pixels:
        """Return the perturbed photograph."""
        sent = save(image, self.first)
        if self._is_shrunk(image):
            sent = shrink(sent, (self.longest_side or 0) / max(image.shape[:2]))
        return enlarge(save(sent, self.second), image.shape[:2])

    def last_save(self, image: Pixels, perturbed: Pixels) -> tuple[Pixels, int] | None:
        """Return the photograph after the first save, and the second quality."""
        return None if self._is_shrunk(image) else (save(image, self.first), self.second)

    def _is_shrunk(self, image: Pixels) -> bool:
        return self.longest_side is not None and max(image.shape[:2]) > self.longest_side


def save(image: Pixels, quality: int) -> Pixels:
    """Return what is read from a JPEG of an image (libjpeg's quality scale, chroma halved).

    Args:
        image: uint8, H x W x 3, RGB.
        quality: 1 to 100.
    """
    import cv2

    # OpenCV takes the channels as BGR; in the wrong order red would be weighted as blue.
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def shrink(image: Pixels, factor: float) -> Pixels:
    """Return an image with both sides multiplied by a factor below 1, rounded, at least a pixel."""
    import cv2

    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def enlarge(image: Pixels, size: tuple[int, ...]) -> Pixels:
    """Return an image of a size (height, width), by bicubic interpolation where it has another."""
    import cv2

    if image.shape[:2] == tuple(size):
        return image
    height, width = size
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def parse_perturbation(text: str) -> tuple[str, tuple[int, ...]] | None:
    """Split a perturbation into its kind and the numbers that it stands for.

    Returns:
        As `("jpeg", (75,))`; for `double` and `social` the two qualities and, where there is one,
        the longest side. None for `none`.

    Raises:
        UserError: It is of no known form, or the strength means nothing for the kind.
    """
    if text == UNPERTURBED:
        return None
    kind, _, strength = text.partition(":")
    if kind == "social":
        return kind, _network(text, strength)
    if kind == "double":
        return kind, _double(text, strength)
    if kind not in KINDS or not strength.isdecimal():
        raise UserError(f'perturbation "{text}": expected {FORMS}')
    number = int(strength)
    if kind == "jpeg":
        _check_quality(text, number)
    if kind == "resize" and number not in _PERCENTS:
        raise UserError(f'perturbation "{text}": a size lies between 1 and 99 percent')
    if kind == "blur" and number % 2 == 0:
        raise UserError(f'perturbation "{text}": a blur kernel has an odd side')
    if number < 1:
        raise UserError(f'perturbation "{text}": the strength must be at least 1')
    return kind, (number,)


def _check_quality(text: str, quality: int) -> None:
    if quality not in _QUALITIES:
        raise UserError(f'perturbation "{text}": a JPEG quality lies between 1 and 100')


def _double(text: str, strength: str) -> tuple[int, ...]:
    found = _DOUBLE.fullmatch(strength)
    if found is None:
        raise UserError(
            f'perturbation "{text}": expected two JPEG qualities, as double:90-70, and perhaps the '
            "longest side in pixels, as double:90-70@1280"
        )
    numbers = tuple(int(number) for number in found.groups() if number is not None)
    for quality in numbers[:2]:
        _check_quality(text, quality)
    if not all(numbers):
        raise UserError(f'perturbation "{text}": the longest side must be at least 1')
    return numbers


def _network(text: str, name: str) -> tuple[int, ...]:
    known = networks()
    if name not in known:
        raise UserError(
            f'perturbation "{text}": no such preset.{suggest(name, known)} Presets: '
            f"{', '.join(known)}; other values are given as double:QUALITY-QUALITY@LONGEST_SIDE"
        )
    network = known[name]
    return network.first_quality, network.quality, network.longest_side


def named_settings(text: str) -> list[int]:
    """Return the numbers that a perturbation's text does not show: those of a named preset.

    Raises:
        UserError: See `parse_perturbation`.
    """
    parts = parse_perturbation(text)
    return list(parts[1]) if parts and parts[0] == "social" else []


def build_perturbation(text: str) -> Perturbation | None:
    """Return the transform of a perturbation, None for `none`.

    Raises:
        UserError: See `parse_perturbation`.
    """
    parts = parse_perturbation(text)
    if parts is None:
        return None
    kind, numbers = parts
    if kind in UPSTREAM_KINDS:
        return UpstreamPerturbation(kind, *numbers)
    return Resized(*numbers) if kind == "resize" else Resaved(*numbers)


def expand(texts: Iterable[str]) -> list[str]:
    """Return perturbations, each once; `ladder:NAME` becomes the strengths of that ladder.

    Raises:
        UserError: A ladder is unknown, or see `parse_perturbation`.
    """
    found: list[str] = []
    for text in texts:
        found += ladder(text.removeprefix(LADDER)) if text.startswith(LADDER) else [text]
    for text in found:
        parse_perturbation(text)
    return list(dict.fromkeys(found))


def ladder(name: str) -> list[str]:
    """Return the perturbations of a ladder.

    Raises:
        UserError: There is none of that name.
    """
    known = ladders()
    if name not in known:
        raise UserError(
            f'there is no ladder "{name}".{suggest(name, known)} Ladders: {", ".join(known)}'
        )
    return list(known[name].perturbations)
