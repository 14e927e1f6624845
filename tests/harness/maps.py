"""Maps for the tests of `benco score`, written in every format that it reads."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray


def random_map(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


def write_map(path: Path, values: NDArray, form: str = "npy") -> Path:
    """Write a map of floats as `npy`, `npz`, `png8`, `png16` or `colour8`; returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = {"npy": ".npy", "npz": ".npz"}.get(form, ".png")
    file = path.with_name(path.name + suffix)
    if form == "npy":
        np.save(file, values)
    elif form == "npz":
        np.savez_compressed(file, values)
    else:
        full, kind = (65535, np.uint16) if form.endswith("16") else (255, np.uint8)
        samples = np.rint(values.astype(np.float64) * full).astype(kind)
        if form.startswith("colour"):
            samples = np.repeat(samples[..., None], 3, axis=2)
        file.write_bytes(cv2.imencode(".png", samples)[1].tobytes())
    return file


def write_maps(
    folder: Path, names: list[str], size: tuple[int, int], form: str = "npy"
) -> dict[str, NDArray]:
    """Write one random map for each relative stem; returns them by stem."""
    maps = {name: random_map(*size, seed) for seed, name in enumerate(names)}
    for name, values in maps.items():
        write_map(folder / name, values, form)
    return maps
