"""Camera pipelines, masks and manipulations of photographs, on arrays.

Everything random is drawn first, into small frozen records (`View`, `Camera`, `Paste`,
`Inpainting`, `Finish`) or an alpha map, and applied afterwards by functions that draw nothing.

Images are uint8 arrays of shape (height, width, 3), RGB. An alpha map is a float32 array of shape
(height, width) in 0..1: how much of the edit each pixel shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import watershed

Image = NDArray[np.uint8]
Alpha = NDArray[np.float32]
Labels = NDArray[np.int32]

#: How the soft edge of an edit becomes a binary mask. Manifests record it.
EDGE_RULE = "tampered where alpha > 0.5"

#: Pixels where less of the edit than this shows are left exactly as they were.
_ALPHA_FLOOR = 1 / 255

#: Regions are found on a copy no larger than this: the cost of a watershed grows with the pixels,
#: and a region's outline is softened afterwards anyway.
_SEGMENT_SIDE = 96

#: Seeds of the watershed: forty make regions of about 2.5 % of the image, a mask is several.
_SEGMENT_SEEDS = 40


@dataclass(frozen=True)
class View:
    """A part of a photograph: a rectangle, shrunk to a size, perhaps mirrored.

    Attributes:
        photograph: Name of the photograph.
        left: Left edge of the rectangle in the photograph, in pixels.
        top: Top edge.
        width: Width of the rectangle.
        height: Height of the rectangle.
        size: (width, height) of the result.
        mirrored: Whether left and right are exchanged.
    """

    photograph: str
    left: int
    top: int
    width: int
    height: int
    size: tuple[int, int]
    mirrored: bool


@dataclass(frozen=True)
class Camera:
    """What a camera does to a scene.

    Attributes:
        gains: White balance, a factor for each of red, green and blue.
        gamma: Exponent of the tone curve.
        blur: Standard deviation of the lens blur in pixels; 0 for none.
        read_noise: Standard deviation of the noise that every pixel has, in grey levels.
        shot_noise: Standard deviation of the noise that grows with the root of brightness, in grey
            levels at white.
        noise_seed: Seed of the noise.
        sharpening: Strength of the unsharp mask; 0 for none.
        jpeg: Quality of the camera's JPEG file, or None for a raw camera.
    """

    gains: tuple[float, float, float]
    gamma: float
    blur: float
    read_noise: float
    shot_noise: float
    noise_seed: int
    sharpening: float
    jpeg: int | None


@dataclass(frozen=True)
class CameraRange:
    """The cameras that a set's photographs are taken with.

    Each pair is the range of a uniform draw.

    Attributes:
        gain: White balance factors.
        gamma: Tone curve exponents.
        blur: Standard deviation of the lens blur, in pixels.
        read_noise: See `Camera`.
        shot_noise: See `Camera`.
        sharpening: Strength of the unsharp mask. A camera blurs or sharpens or does neither, each
            as often.
        jpeg: Qualities of the camera's JPEG.
        raw_share: Part of the cameras that do not compress.
    """

    gain: tuple[float, float] = (0.9, 1.1)
    gamma: tuple[float, float] = (0.8, 1.25)
    blur: tuple[float, float] = (0.4, 0.9)
    read_noise: tuple[float, float] = (1.0, 5.0)
    shot_noise: tuple[float, float] = (0.0, 5.0)
    sharpening: tuple[float, float] = (0.3, 1.2)
    jpeg: tuple[int, int] = (75, 98)
    raw_share: float = 0.3

    def draw(self, rng: np.random.Generator) -> Camera:
        """Draw one camera."""
        style = rng.integers(3)
        red, green, blue = (draw_between(self.gain, rng) for _ in range(3))
        return Camera(
            gains=(red, green, blue),
            gamma=draw_between(self.gamma, rng),
            blur=draw_between(self.blur, rng) if style == 0 else 0.0,
            read_noise=draw_between(self.read_noise, rng),
            shot_noise=draw_between(self.shot_noise, rng),
            noise_seed=int(rng.integers(2**31)),
            sharpening=draw_between(self.sharpening, rng) if style == 1 else 0.0,
            jpeg=None if rng.random() < self.raw_share else _draw_quality(self.jpeg, rng),
        )


@dataclass(frozen=True)
class Finish:
    """What happens to the whole picture after the edit, on its way into a file.

    Attributes:
        shrink: Factor by which the edited picture is made smaller; 1 for not at all.
        sharpening: Strength of the unsharp mask; 0 for none.
        jpeg: Quality of the JPEG file, or None for a PNG file.
    """

    shrink: float
    sharpening: float
    jpeg: int | None


@dataclass(frozen=True)
class FinishRange:
    """How a set's pictures are saved; each pair is the range of a uniform draw.

    Attributes:
        shrink: See `Finish`.
        sharpening: See `Finish`.
        jpeg: Qualities of the file. After a camera's JPEG this is the second compression.
        png_share: Part of the pictures that are saved without loss.
    """

    shrink: tuple[float, float] = (1.0, 1.0)
    sharpening: tuple[float, float] = (0.0, 0.0)
    jpeg: tuple[int, int] = (80, 98)
    png_share: float = 0.4

    def draw(self, rng: np.random.Generator) -> Finish:
        """Draw one way of saving."""
        return Finish(
            shrink=draw_between(self.shrink, rng),
            sharpening=draw_between(self.sharpening, rng),
            jpeg=None if rng.random() < self.png_share else _draw_quality(self.jpeg, rng),
        )


@dataclass(frozen=True)
class Paste:
    """How a cut-out is put in its place.

    Attributes:
        scale: Factor of its size.
        degrees: Rotation, counter-clockwise.
        matrix: The affine map from (x, y, 1) in the source to (x, y) in the target.
    """

    scale: float
    degrees: float
    matrix: tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Inpainting:
    """How a hole is filled.

    Attributes:
        method: `telea` (Telea 2004, fast marching) or `navier-stokes` (Bertalmio et al. 2001).
        radius: How far around each pixel OpenCV looks, in pixels.
    """

    method: Literal["telea", "navier-stokes"]
    radius: int


def draw_between(limits: tuple[float, float], rng: np.random.Generator) -> float:
    """Draw a number uniformly, with four decimals: what a manifest shows is what was used."""
    return round(float(rng.uniform(*limits)), 4)


def draw_view(
    name: str, shape: Sequence[int], size: tuple[int, int], rng: np.random.Generator
) -> View:
    """Draw a view that is never enlarged.

    Args:
        name: Name of the photograph.
        shape: Its (height, width, ...), at least as large as `size`.
        size: (width, height) of the view.
        rng: Source of the draw. The scale is uniform in its logarithm, from the whole photograph's
            width or height to its own pixels.

    Returns:
        The view.
    """
    width, height = size
    fit = min(1.0, max(width / shape[1], height / shape[0]))
    scale = float(np.exp(rng.uniform(np.log(fit), 0.0)))
    crop_width = min(shape[1], round(width / scale))
    crop_height = min(shape[0], round(height / scale))
    return View(
        photograph=name,
        left=int(rng.integers(shape[1] - crop_width + 1)),
        top=int(rng.integers(shape[0] - crop_height + 1)),
        width=crop_width,
        height=crop_height,
        size=size,
        mirrored=bool(rng.integers(2)),
    )


def apply_view(photograph: Image, view: View) -> Image:
    """Cut a view out of its photograph."""
    crop = photograph[view.top : view.top + view.height, view.left : view.left + view.width]
    result = cv2.resize(crop, view.size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(result[:, ::-1] if view.mirrored else result)


def apply_camera(image: Image, camera: Camera) -> Image:
    """Take a picture of a view: tone, lens, noise, sharpening, JPEG, in the order of a camera."""
    curve = 255 * (np.arange(256) / 255) ** camera.gamma
    tables = np.clip(np.outer(camera.gains, curve), 0, 255).astype(np.float32)
    light = cv2.LUT(image, tables.T.reshape(1, 256, 3))
    if camera.blur > 0:
        light = cv2.GaussianBlur(light, (0, 0), camera.blur)
    noise = np.random.default_rng(camera.noise_seed).standard_normal(light.shape, np.float32)
    light += noise * np.sqrt(camera.read_noise**2 + camera.shot_noise**2 * light / 255)
    picture = _to_bytes(_sharpened(light, camera.sharpening))
    return picture if camera.jpeg is None else _through_jpeg(picture, camera.jpeg)


def apply_finish(image: Image, size: tuple[int, int], finish: Finish) -> Image:
    """Bring an edited picture to its (width, height) and sharpen it; `encode` makes its file."""
    if (image.shape[1], image.shape[0]) != size:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if finish.sharpening == 0:
        return image
    return _to_bytes(_sharpened(image.astype(np.float32), finish.sharpening))


def encode(image: Image, jpeg: int | None) -> bytes:
    """Encode an image as a JPEG of a quality, or as a PNG."""
    options = [] if jpeg is None else [cv2.IMWRITE_JPEG_QUALITY, jpeg]
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image  # noqa: PLR2004 (colour)
    return cv2.imencode(".png" if jpeg is None else ".jpg", pixels, options)[1].tobytes()


def binary_mask(alpha: Alpha) -> Image:
    """Make the ground truth of an edit by `EDGE_RULE`: 255 where tampered, else 0."""
    return np.where(alpha > 0.5, 255, 0).astype(np.uint8)  # noqa: PLR2004 (the rule)


def polygon_alpha(
    shape: tuple[int, int], area: float, feather: float, rng: np.random.Generator
) -> Alpha:
    """Draw a random polygon with a soft edge.

    Args:
        shape: (height, width) of the map.
        area: Part of the map to cover. A polygon that does not fit is cut at the border.
        feather: Standard deviation of the edge's softness, in pixels.
        rng: Source of the draw.

    Returns:
        The alpha map.
    """
    height, width = shape
    corners = int(rng.integers(5, 13))
    angles = (np.arange(corners) + rng.random(corners)) * 2 * np.pi / corners
    radii = rng.uniform(0.5, 1.0, corners)
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles) * rng.uniform(0.5, 1.0)], 1)
    points = points @ _rotation(rng.uniform(0, 360)).T
    points *= np.sqrt(area * height * width / _polygon_area(points))
    low, high = points.min(axis=0), points.max(axis=0)
    points += _draw_offset(low, high, (width, height), rng)
    hard = np.zeros(shape, np.uint8)
    cv2.fillPoly(hard, [np.round(points).astype(np.int32)], 255)
    return _feathered(hard, feather)


def region_alpha(image: Image, area: float, feather: float, rng: np.random.Generator) -> Alpha:
    """Draw an irregular shape that follows the structure of an image, with a soft edge.

    Neighbouring watershed regions of the image's gradient are joined while that brings their area
    closer to what is asked.

    Args:
        image: The image whose structure is followed.
        area: Part of the image to cover, roughly.
        feather: Standard deviation of the edge's softness, in pixels.
        rng: Source of the draw.

    Returns:
        The alpha map, as large as the image.
    """
    labels = _regions(image)
    chosen = labels == rng.choice(np.unique(labels))
    while chosen.mean() < area:
        ring = cv2.dilate(chosen.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        neighbours = np.unique(labels[ring & ~chosen])
        if len(neighbours) == 0:
            break
        grown = chosen | (labels == rng.choice(neighbours))
        if grown.mean() - area > area - chosen.mean():
            break
        chosen = grown
    hard = np.where(chosen, 255, 0).astype(np.uint8)
    hard = cv2.resize(hard, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
    return _feathered(hard, feather)


def draw_paste(
    alpha: Alpha, scale: float, degrees: float, rng: np.random.Generator, *, away: bool
) -> Paste:
    """Draw a place for a cut-out, inside the picture if it fits.

    Args:
        alpha: The cut-out's alpha map in its source, which is as large as the target.
        scale: Factor of its size.
        degrees: Its rotation.
        rng: Source of the draw.
        away: Whether to keep away from where it was cut (copy-move): the farthest of four draws.

    Returns:
        The placement.
    """
    rows, columns = np.nonzero(alpha > _ALPHA_FLOOR)
    points = np.stack([columns, rows], axis=1).astype(np.float64)
    turn = _rotation(degrees) * scale
    turned = points @ turn.T
    size = (alpha.shape[1], alpha.shape[0])
    low, high = turned.min(axis=0), turned.max(axis=0)
    offsets = [_draw_offset(low, high, size, rng) for _ in range(4 if away else 1)]
    start = points.mean(axis=0)
    middle = turned.mean(axis=0)
    best = max(offsets, key=lambda offset: float(np.hypot(*(middle + offset - start))))
    matrix = np.column_stack([turn, best])
    rows_of_three = tuple(tuple(round(float(value), 6) for value in row) for row in matrix)
    return Paste(scale=scale, degrees=degrees, matrix=rows_of_three)  # type: ignore[arg-type] # 2 x 3


def apply_paste(base: Image, source: Image, alpha: Alpha, paste: Paste) -> tuple[Image, Alpha]:
    """Put a cut-out of `source` into `base` (splicing), or of `base` into itself (copy-move).

    Args:
        base: The picture that is edited.
        source: Where the cut-out comes from, as large as `base`.
        alpha: The cut-out's alpha map in `source`.
        paste: Where it goes.

    Returns:
        The edited picture and the alpha map of the edit in it.
    """
    matrix = np.array(paste.matrix)
    size = (base.shape[1], base.shape[0])
    moved = cv2.warpAffine(
        source, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    moved_alpha = cv2.warpAffine(alpha, matrix, size, flags=cv2.INTER_LINEAR)
    return blend(base, moved, moved_alpha)


def apply_inpainting(base: Image, alpha: Alpha, how: Inpainting) -> tuple[Image, Alpha]:
    """Remove what an alpha map covers by filling it in from around.

    Args:
        base: The picture that is edited.
        alpha: What is removed.
        how: The method.

    Returns:
        The edited picture and the alpha map of the edit in it.
    """
    flag = cv2.INPAINT_TELEA if how.method == "telea" else cv2.INPAINT_NS
    hole = np.where(alpha > _ALPHA_FLOOR, 255, 0).astype(np.uint8)
    return blend(base, cv2.inpaint(base, hole, how.radius, flag), alpha)


def blend(base: Image, edit: Image, alpha: Alpha) -> tuple[Image, Alpha]:
    """Show `edit` over `base`. Pixels where alpha is (almost) 0 keep `base`'s value exactly.

    Returns:
        The picture, and the alpha map with its almost-zeros set to 0.
    """
    inside = alpha > _ALPHA_FLOOR
    weight = alpha[inside][:, None]
    picture = base.copy()
    picture[inside] = _to_bytes(base[inside] * (1 - weight) + edit[inside] * weight)
    return picture, np.where(inside, alpha, np.float32(0))


def mean_change(before: Image, after: Image, mask: Image) -> float:
    """Mean absolute difference inside a mask, in grey levels; 0 for an empty mask."""
    inside = mask > 0
    if not inside.any():
        return 0.0
    return float(np.abs(before[inside].astype(np.int16) - after[inside]).mean())


def _draw_quality(limits: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(limits[0], limits[1] + 1))


def _to_bytes(picture: NDArray[Any]) -> Image:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _sharpened(picture: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """Unsharp mask: add `strength` times what a blur of one pixel takes away."""
    if strength == 0:
        return picture
    return picture + strength * (picture - cv2.GaussianBlur(picture, (0, 0), 1.0))


def _through_jpeg(image: Image, quality: int) -> Image:
    data = np.frombuffer(encode(image, quality), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _rotation(degrees: float) -> NDArray[np.float64]:
    """Matrix that turns (x, y) column vectors counter-clockwise on the screen (y points down)."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _polygon_area(points: NDArray[np.float64]) -> float:
    """Area of a simple polygon by the shoelace formula."""
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _draw_offset(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    size: tuple[int, int],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Draw the shift that keeps the box from `low` to `high` inside `size`, or centres it."""
    slack = np.array(size) - 1 - (high - low)
    return np.where(slack > 0, rng.random(2) * slack, slack / 2) - low


def _feathered(hard: Image, feather: float) -> Alpha:
    alpha = hard.astype(np.float32) / 255
    return cv2.GaussianBlur(alpha, (0, 0), feather) if feather > 0 else alpha


def _regions(image: Image) -> Labels:
    """Watershed regions of an image's gradient, on a copy of at most `_SEGMENT_SIDE` a side."""
    factor = min(1.0, _SEGMENT_SIDE / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(cv2.GaussianBlur(small, (0, 0), 1.5), cv2.COLOR_RGB2GRAY)
    across = cv2.Sobel(grey, cv2.CV_32F, 1, 0)
    down = cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    # The squared gradient floods in the same order as its root and is exact in float32; OpenCV's
    # magnitude is not: its last bit depends on where the arrays lie in memory.
    return watershed(across * across + down * down, markers=_SEGMENT_SEEDS)
