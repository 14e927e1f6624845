"""`--max-pixels N`: larger pictures are refused before they are decoded, in one line."""

import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsevit_plugin.cli.main import _take_pixels, main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.images import (
    BadImage,
    decode_image,
    open_picture,
    read_image,
    read_mask,
    upright_size,
)
from sparsevit_plugin.harness.leak import photograph_hash
from sparsevit_plugin.harness.map_files import read_map
from sparsevit_plugin.harness.mask_rules import read_ruled_mask
from sparsevit_plugin.pixel_limit import DEFAULT, FLAG, VARIABLE, limited_to, pixel_limit
from tests.conftest import photo_array

EVERY_DOOR = (
    read_image,
    read_mask,
    upright_size,
    photograph_hash,
    lambda path: read_map(path, 1 << 40),
    lambda path: read_ruled_mask([path], "nonzero"),
)


@pytest.fixture(autouse=True)
def pillows_own_limit(monkeypatch):
    """Pillow's limit is as it was afterwards: other tests read pictures without this package."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


def png_that_claims(path: Path, width: int, height: int) -> Path:
    """Write a grey PNG of this size whose rows are missing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [
        chunk(b"IHDR", header),
        chunk(b"IDAT", zlib.compress(b"\0" * 64)),
        chunk(b"IEND", b""),
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize("door", EVERY_DOOR)
@pytest.mark.parametrize("side", [13_378, 30_000, 2**31 - 1])
def test_a_bomb_is_refused_by_every_door_without_a_warning_of_pillows(tmp_path, door, side):
    bomb = png_that_claims(tmp_path / "bomb.png", side, side)
    assert side * side > DEFAULT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(BadImage, match=f"too many pixels.*the limit is {DEFAULT}.*{FLAG}"):
            door(bomb)


def test_what_the_limit_allows_is_read_without_a_warning(tmp_path):
    large = png_that_claims(tmp_path / "a.png", 13_377, 13_377)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_picture(large) as picture:
            assert picture.width * picture.height == 13_377**2 < DEFAULT


def test_the_limit_is_raised_and_lowered(tmp_path, make_photo):
    large = png_that_claims(tmp_path / "a.png", 20_000, 20_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with limited_to(400_000_000), open_picture(large) as picture:
            assert picture.size == (20_000, 20_000)
    small = make_photo(tmp_path / "b.png", size=(48, 64))
    with limited_to(48 * 64):
        assert read_image(small).shape == (48, 64, 3)
    with limited_to(48 * 64 - 1), pytest.raises(BadImage, match="64 x 48"):
        read_image(small)
    assert VARIABLE not in os.environ
    assert pixel_limit() == DEFAULT


def test_arrays_keep_to_it_too(tmp_path):
    for name, save in (("a.npy", np.save), ("a.npz", np.savez_compressed)):
        save(tmp_path / name, np.zeros((40, 50), np.float32))
        assert read_map(tmp_path / name, 1 << 26).values.shape == (40, 50)
        with limited_to(1999), pytest.raises(BadImage, match="too many pixels"):
            read_map(tmp_path / name, 1 << 26)
    with limited_to(1999), pytest.raises(BadImage, match="too many pixels"):
        read_ruled_mask([tmp_path / "a.npz"], "nonzero")


def test_a_picture_that_is_a_program_is_not_run(tmp_path):
    program = tmp_path / "a.jpg"
    Image.fromarray(photo_array(20, 30, 1)).save(program, "EPS")
    with pytest.raises(BadImage, match="EPS file, a program, which is not run"):
        decode_image(program)


@pytest.mark.parametrize("wrong", ["0", "-5", "many", "1e9", "", "9" * 30])
def test_the_flag_takes_a_number(tmp_path, capsys, wrong):
    assert main(["data", "check", str(tmp_path), FLAG, wrong]) == 2
    error = capsys.readouterr().err
    assert FLAG in error
    assert len(error.splitlines()) == 1


def test_a_wrong_variable_is_named(monkeypatch, tmp_path, make_photo):
    monkeypatch.setenv(VARIABLE, "lots")
    with pytest.raises(UserError, match=f"{VARIABLE} lots"):
        read_image(make_photo(tmp_path / "a.png"))


def test_the_command_and_its_processes_keep_to_it(tmp_path, make_set, capsys):
    folder = make_set(tmp_path / "set", count=2, size=(48, 64))
    assert main([FLAG, "3072", "data", "check", str(folder)]) == 0
    assert main(["data", "check", str(folder), f"{FLAG}=3071"]) == 1
    assert "too many pixels" in capsys.readouterr().out
    script = "import sys; from sparsevit_plugin.pixel_limit import pixel_limit as p; print(p())"
    with limited_to(123):
        command = [sys.executable, "-c", script]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "123"


def test_behind_app_it_is_that_verbs_own():
    assert _take_pixels(["app", FLAG, "5"]) == (["app", FLAG, "5"], None)
    assert _take_pixels([FLAG, "9", "app", FLAG, "5"]) == (["app", FLAG, "5"], "9")
    assert _take_pixels(["table", "app", FLAG, "5"]) == (["table", "app"], "5")
