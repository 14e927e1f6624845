"""The corpus of the ablations: `python benchmarks/wallpapers.py --data-root DIR`.

Takes the photographs that `wallpapers.yaml` lists out of four of Debian's packages, shrinks each to
a long side of 1280 pixels (the sources differ by a factor of five), and runs `benco data make` on
them. What comes out is the sets `wallpapers_train`, `wallpapers_splicing`, `wallpapers_copy-move`,
`wallpapers_removal` and `wallpapers_resaved` below `DIR/wallpapers`.

The packages are found where they are installed (`apt-get install mate-backgrounds
lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 plasma-workspace-wallpapers`), or fetched by
`apt-get download` into `DIR` and unpacked there, which needs no root.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import yaml

from sparsevit_plugin.cli.main import main as benco
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import atomic_path
from sparsevit_plugin.harness.images import read_image

LONG_SIDE = 1280
LIST = Path(__file__).with_name("wallpapers.yaml")
FOLDERS = ("usr/share/backgrounds", "usr/share/wallpapers")
PACKAGES = "packages"

CORPUS = {
    "count": "8000",
    "test-count": "130",
    "sizes": "256x256",
    "test-share": "0.35",
    "seed": "0",
}
"""Options of `benco data make`. 256 x 256 is the models' size: no picture is resized for them."""


def main() -> int:
    """Make the corpus, or see that it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True, type=Path, metavar="DIR")
    parser.add_argument("--workers", default="2", metavar="N", help="processes (2)")
    args = parser.parse_args()
    try:
        photographs = collect(args.data_root)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options = [word for name, value in CORPUS.items() for word in (f"--{name}", value)]
    out = args.data_root / "wallpapers"
    words = ["--photos", str(photographs), "--out", str(out), "--workers", args.workers, *options]
    return benco(["data", "make", *words])


def collect(data_root: Path) -> Path:
    """Return the folder of the shrunken photographs; what is missing in it is made.

    Raises:
        UserError: A package cannot be had, or lacks a file.
    """
    target = data_root / "wallpaper-photographs"
    target.mkdir(parents=True, exist_ok=True)
    roots = [Path("/"), data_root / PACKAGES]
    for package, files in yaml.safe_load(LIST.read_text(encoding="utf-8")).items():
        for file in files:
            photograph = target / f"{name_of(file)}.png"
            if not photograph.is_file():
                shrink(find(package, file, roots), photograph)
    return target


def name_of(file: str) -> str:
    """Return a short name: the wallpaper's folder where its file is named by a size."""
    path = Path(file)
    return path.parts[0] if path.stem[0].isdigit() else path.stem


def find(package: str, file: str, roots: list[Path]) -> Path:
    """Return a wallpaper's file; its package is fetched and unpacked if it is not installed.

    Raises:
        UserError: See `collect`.
    """
    for path in candidates(file, roots):
        if path.is_file():
            return path
    unpack(package, roots[-1])
    for path in candidates(file, roots):
        if path.is_file():
            return path
    raise UserError(f"{package} holds no {file}: another version than bookworm's?")


def candidates(file: str, roots: list[Path]) -> Iterator[Path]:
    """Yield the places where a wallpaper may be."""
    for root in roots:
        for folder in FOLDERS:
            yield root / folder / file


def unpack(package: str, folder: Path) -> None:
    """Fetch a package by apt-get and unpack it into a folder.

    Raises:
        UserError: That failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        (file,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", file.name, "."], cwd=folder, check=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"{package} is not installed and could not be fetched ({error}): "
            f"apt-get install {package}"
        ) from error
    file.unlink()


def shrink(source: Path, target: Path) -> None:
    """Write a photograph, its long side no longer than `LONG_SIDE`, without loss."""
    pixels = read_image(source)
    height, width = pixels.shape[:2]
    factor = min(1.0, LONG_SIDE / max(height, width))
    size = (round(width * factor), round(height * factor))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    with atomic_path(target) as partial:
        done, data = cv2.imencode(".png", small[:, :, ::-1])
        assert done
        Path(partial).write_bytes(data.tobytes())


if __name__ == "__main__":
    sys.exit(main())
