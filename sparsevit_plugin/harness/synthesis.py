"""Draws the images of a corpus: which view, which camera, which edit, how it is saved."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from zlib import crc32

import cv2
import numpy as np

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import manipulations as edits
from sparsevit_plugin.harness.manipulations import CameraRange, FinishRange, Image
from sparsevit_plugin.harness.photos import Photograph

Manipulation = Literal["splicing", "copy-move", "removal"]

ALL_MANIPULATIONS: tuple[Manipulation, ...] = ("splicing", "copy-move", "removal")

#: An edit must change its pixels by this many grey levels on average, or a new one is drawn: what
#: nobody could see is not worth a label. After `ATTEMPTS` draws the most visible one is taken.
MINIMUM_CHANGE = 4.0
ATTEMPTS = 12

#: No more of an image than this is tampered with.
LARGEST_AREA = 0.5


@dataclass(frozen=True)
class SetSpec:
    """One set of a corpus.

    Attributes:
        name: Folder name of the set.
        split: `train` or `test`. No scene may be in both.
        scenes: The scenes its images and donors come from.
        count: Number of tampered images.
        authentic: Number of authentic images, which go through the same pipeline without an edit.
        manipulations: Kinds of edits, each as often.
        sizes: (width, height) of the images, each as often. Repeat a size to make it more frequent.
        mask_area: Range of the part of an image that an edit covers (uniform draw).
        region_share: Part of the masks that follow image structure; the others are polygons.
        scale: Range of the size factor of what is pasted.
        degrees: Largest rotation of what is pasted, either way.
        feather: Range of the softness of an edit's edge, in pixels.
        camera: Cameras of the photographs, donors included.
        finish: What happens after the edit.
    """

    name: str
    split: Literal["train", "test"]
    scenes: tuple[str, ...]
    count: int
    authentic: int = 0
    manipulations: tuple[Manipulation, ...] = ALL_MANIPULATIONS
    sizes: tuple[tuple[int, int], ...] = ((256, 256), (320, 240))
    mask_area: tuple[float, float] = (0.04, 0.18)
    region_share: float = 0.4
    scale: tuple[float, float] = (0.7, 1.4)
    degrees: float = 30.0
    feather: tuple[float, float] = (0.5, 1.5)
    camera: CameraRange = field(default_factory=CameraRange)
    finish: FinishRange = field(default_factory=FinishRange)

    @property
    def smallest_photograph(self) -> tuple[int, int]:
        """(width, height) that a photograph needs for every size of this set."""
        factor = min(self.finish.shrink)
        widths, heights = zip(*self.sizes, strict=True)
        return int(np.ceil(max(widths) / factor)), int(np.ceil(max(heights) / factor))


@dataclass(frozen=True)
class Job:
    """One image of a set: `index` counts tampered and authentic images separately."""

    set_name: str
    tampered: bool
    index: int


@dataclass(frozen=True)
class Sample:
    """One finished image.

    Attributes:
        image: uint8 (height, width, 3).
        mask: uint8 (height, width) of 0 and 255; None for an authentic image.
        jpeg: Quality of its file, or None for PNG.
        record: Its entry in the manifest.
    """

    image: Image
    mask: Image | None
    jpeg: int | None
    record: dict[str, Any]


@dataclass(frozen=True)
class _Shot:
    """A view of a photograph as its camera took it."""

    photograph: Photograph
    picture: Image
    operations: list[dict[str, Any]]


@dataclass(frozen=True)
class _Edit:
    """An edited picture, not yet finished."""

    picture: Image
    alpha: edits.Alpha
    change: float
    sources: list[Photograph]
    operations: list[dict[str, Any]]


class Maker:
    """Draws the images of a corpus.

    Args:
        photographs: What there is to draw from.
        sets: The sets.
        seed: Seed of the corpus.
    """

    def __init__(
        self, photographs: Sequence[Photograph], sets: Sequence[SetSpec], seed: int
    ) -> None:
        self.sets = {spec.name: spec for spec in sets}
        self.seed = seed
        self._scenes: dict[str, list[Photograph]] = {}
        for photograph in photographs:
            self._scenes.setdefault(photograph.scene, []).append(photograph)

    def sample(self, job: Job) -> Sample:
        """Draw one image."""
        spec = self.sets[job.set_name]
        key = [self.seed, crc32(spec.name.encode()), int(job.tampered), job.index]
        rng = np.random.default_rng(key)
        # Scenes take turns, then manipulations: each manipulation meets each scene as often.
        turn, place = divmod(job.index, len(spec.scenes))
        scene = spec.scenes[place]
        size = spec.sizes[rng.integers(len(spec.sizes))]
        finish = spec.finish.draw(rng)
        canvas = (
            max(size[0], round(size[0] / finish.shrink)),
            max(size[1], round(size[1] / finish.shrink)),
        )
        last = {"operation": "finish", **vars(finish)}
        if not job.tampered:
            shot = self._shot(spec, scene, canvas, rng)
            image = edits.apply_finish(shot.picture, size, finish)
            record = _record([shot.photograph], size, [*shot.operations, last])
            return Sample(image, None, finish.jpeg, {"manipulation": None, **record})
        manipulation = spec.manipulations[turn % len(spec.manipulations)]
        edit = self._tampered(spec, scene, manipulation, canvas, rng)
        image = edits.apply_finish(edit.picture, size, finish)
        mask = edits.binary_mask(_resized(edit.alpha, size))
        facts = {
            "manipulation": manipulation,
            "mask_area": round(float((mask > 0).mean()), 6),
            "change": round(edit.change, 2),
        }
        record = _record(edit.sources, size, [*edit.operations, last])
        return Sample(image, mask, finish.jpeg, {**facts, **record})

    def _shot(
        self, spec: SetSpec, scene: str, canvas: tuple[int, int], rng: np.random.Generator
    ) -> _Shot:
        photographs = self._scenes[scene]
        photograph = photographs[rng.integers(len(photographs))]
        pixels = photograph.array
        view = edits.draw_view(photograph.name, pixels.shape, canvas, rng)
        camera = spec.camera.draw(rng)
        return _Shot(
            photograph=photograph,
            picture=edits.apply_camera(edits.apply_view(pixels, view), camera),
            operations=[
                {"operation": "view", **vars(view)},
                {"operation": "camera", **vars(camera)},
            ],
        )

    def _tampered(
        self,
        spec: SetSpec,
        scene: str,
        manipulation: Manipulation,
        canvas: tuple[int, int],
        rng: np.random.Generator,
    ) -> _Edit:
        """Draw edits until one can be seen; the most visible one if none reaches the bar."""
        best: _Edit | None = None
        for _ in range(ATTEMPTS):
            base = self._shot(spec, scene, canvas, rng)
            edit = self._edit(spec, base, manipulation, rng)
            area = float((edits.binary_mask(edit.alpha) > 0).mean())
            if not min(spec.mask_area) / 2 <= area <= LARGEST_AREA:
                continue
            if best is None or edit.change > best.change:
                best = edit
            if edit.change >= MINIMUM_CHANGE:
                break
        if best is None:
            raise UserError(
                f"no {manipulation} of the asked area fits into {scene} at "
                f"{canvas[0]} x {canvas[1]}; choose larger sizes or other photographs"
            )
        return best

    def _edit(
        self, spec: SetSpec, base: _Shot, manipulation: Manipulation, rng: np.random.Generator
    ) -> _Edit:
        area = edits.draw_between(spec.mask_area, rng)
        if manipulation == "removal":
            alpha, shape = _draw_alpha(spec, base.picture, area, rng)
            how = edits.Inpainting(
                method="telea" if rng.integers(2) else "navier-stokes",
                radius=int(rng.integers(2, 5)),
            )
            picture, shown = edits.apply_inpainting(base.picture, alpha, how)
            return _finished_edit(base, [], picture, shown, [shape, _operation("inpainting", how)])
        scale = round(float(np.exp(rng.uniform(*np.log(spec.scale)))), 4)
        degrees = edits.draw_between((-spec.degrees, spec.degrees), rng)
        donor = base
        if manipulation == "splicing":
            height, width = base.picture.shape[:2]
            scene = _donor_scene(spec, base, rng)
            donor = self._shot(spec, scene, (width, height), rng)
        alpha, shape = _draw_alpha(spec, donor.picture, area / scale**2, rng)
        paste = edits.draw_paste(alpha, scale, degrees, rng, away=donor is base)
        picture, shown = edits.apply_paste(base.picture, donor.picture, alpha, paste)
        donors = [] if donor is base else [donor]
        return _finished_edit(base, donors, picture, shown, [shape, _operation("paste", paste)])


def _donor_scene(spec: SetSpec, base: _Shot, rng: np.random.Generator) -> str:
    others = [scene for scene in spec.scenes if scene != base.photograph.scene]
    return others[rng.integers(len(others))]


def _draw_alpha(
    spec: SetSpec, picture: Image, area: float, rng: np.random.Generator
) -> tuple[edits.Alpha, dict[str, Any]]:
    """Draw the shape of an edit: along the structure of what is cut, or a polygon."""
    feather = edits.draw_between(spec.feather, rng)
    area = round(min(area, LARGEST_AREA), 4)
    height, width = picture.shape[:2]
    if rng.random() < spec.region_share:
        kind, alpha = "region", edits.region_alpha(picture, area, feather, rng)
    else:
        kind, alpha = "polygon", edits.polygon_alpha((height, width), area, feather, rng)
    return alpha, {"operation": "mask", "shape": kind, "area": area, "feather": feather}


def _finished_edit(
    base: _Shot,
    donors: list[_Shot],
    picture: Image,
    alpha: edits.Alpha,
    operations: list[dict[str, Any]],
) -> _Edit:
    return _Edit(
        picture=picture,
        alpha=alpha,
        change=edits.mean_change(base.picture, picture, edits.binary_mask(alpha)),
        sources=[base.photograph, *(donor.photograph for donor in donors)],
        operations=[
            *base.operations,
            *({**step, "of": "donor"} for donor in donors for step in donor.operations),
            *operations,
        ],
    )


def _operation(name: str, parameters: edits.Paste | edits.Inpainting) -> dict[str, Any]:
    return {"operation": name, **vars(parameters)}


def _resized(alpha: edits.Alpha, size: tuple[int, int]) -> edits.Alpha:
    if (alpha.shape[1], alpha.shape[0]) == size:
        return alpha
    return cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)


def _record(
    sources: Sequence[Photograph], size: tuple[int, int], operations: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write down where an image comes from; `photos` are scenes, what results are grouped by."""
    return {
        "photos": list(dict.fromkeys(photograph.scene for photograph in sources)),
        "photographs": list(dict.fromkeys(photograph.name for photograph in sources)),
        "size": list(size),
        "operations": operations,
    }
