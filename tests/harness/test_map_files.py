"""Maps of other programs: what is read, on which scale, and what is refused."""

import contextlib
import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sparsevit_plugin.harness.images import BadImage
from sparsevit_plugin.harness.map_files import read_map
from tests.harness.maps import random_map, write_map

MOST = 10_000
FORMS = ("npy", "npz", "png8", "png16", "colour8", "colour16")

on_files = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@on_files
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(FORMS))
def test_every_format_gives_the_map_within_its_quantisation(tmp_path, height, width, form):
    values = random_map(height, width)
    stored = read_map(write_map(tmp_path / "x", values, form), MOST)
    step = {"8": 1 / 255, "6": 1 / 65535}.get(form[-1], 0)
    assert stored.values.shape == (height, width)
    np.testing.assert_allclose(stored.values, values, rtol=0, atol=step / 2 + 1e-7 * bool(step))
    assert stored.values.dtype == np.float32


@on_files
@given(
    st.sampled_from(["<f2", "<f4", ">f4", "<f8", ">f8", "|b1", "|u1", "<u2", ">u2"]),
    st.sampled_from([(3, 5), (1, 3, 5), (3, 5, 1), (1, 1, 3, 5), (1, 3, 5, 1)]),
    st.booleans(),
    st.sampled_from(["npy", "npz"]),
)
def test_every_type_byte_order_and_layout(tmp_path, kind, shape, by_column, form):
    dtype = np.dtype(kind)
    full = {"b1": 1, "u1": 255, "u2": 65535}.get(kind[1:])
    grid = np.arange(15).reshape(3, 5)
    wanted = (grid % 2) if kind == "|b1" else grid / 15
    samples = (wanted if full is None else np.rint(wanted * full)).astype(dtype).reshape(shape)
    samples = np.asfortranarray(samples) if by_column else samples
    stored = read_map(write_map(tmp_path / "x", samples, form), MOST)
    exact = samples.reshape(3, 5).astype(np.float64) / (full or 1)
    np.testing.assert_allclose(stored.values, exact, rtol=1e-7)
    assert stored.values.dtype == (np.float64 if kind[1:] == "f8" else np.float32)
    assert stored.values.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("form", ["png16", "colour16"])
def test_sixteen_bits_are_not_cut_to_eight(tmp_path, form):
    samples = np.array([[0, 1, 255, 256, 32767, 32768, 65534, 65535]]) / 65535
    stored = read_map(write_map(tmp_path / "x", samples, form), MOST)
    np.testing.assert_array_equal(stored.values, samples.astype(np.float32))
    assert stored.form == "png uint16"


def test_one_bit_and_palette_pictures_are_on_the_eight_bit_scale(tmp_path):
    picture = Image.fromarray(np.array([[0, 255]], np.uint8))
    for mode in ("1", "L", "P", "RGBA"):
        picture.convert(mode).save(tmp_path / f"{mode}.png")
        assert read_map(tmp_path / f"{mode}.png", MOST).values.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("name", ["map", "pred"])
def test_of_several_arrays_the_one_called_map_or_pred(tmp_path, name):
    values = random_map(3, 4)
    np.savez(tmp_path / "x.npz", image=np.zeros((3, 4, 3)), **{name: values})
    np.testing.assert_array_equal(read_map(tmp_path / "x.npz", MOST).values, values)
    np.savez(tmp_path / "y.npz", map=values, pred=values)
    with pytest.raises(BadImage, match=r"holds 2 arrays \(map, pred\), expected one"):
        read_map(tmp_path / "y.npz", MOST)


def npy(samples: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, samples, **options)
    return buffer.getvalue()


def npy_that_claims(shape: tuple[int, ...], content: bytes = b"\0" * 64) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def zipped(member: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("map.npy", member)
    return buffer.getvalue()


def png(samples: np.ndarray) -> bytes:
    return cv2.imencode(".png", samples)[1].tobytes()


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + start + pixels + chunk(b"IEND", b"")


class Opens:
    """When unpickled, writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.path, "pickle ran")


GREY = np.arange(400, dtype=np.uint8).reshape(20, 20)
WIDE = np.repeat((GREY.astype(np.uint16) * 257)[..., None], 3, axis=2)

HOSTILE = {
    "empty.png": (b"", "empty"),
    "text.png": (b"a text\n", "text file"),
    "cut.png": (png(GREY)[:-60], "cannot be decoded"),
    "cut16.png": (png(WIDE)[:-60], "cannot be decoded"),
    "colour.png": (png(np.dstack([GREY, GREY, 255 - GREY])), "colour picture"),
    "colour16.png": (png(np.dstack([WIDE[..., 0], WIDE[..., 0], WIDE[::-1, :, 0]])), "colour"),
    "large.png": (png_that_claims(30_000, 30_000), "too many pixels"),
    "bomb.png": (png_that_claims(60_000, 60_000), "too many pixels"),
    "jpeg.png": (cv2.imencode(".jpg", GREY)[1].tobytes(), "is a JPEG file"),
    "empty.npy": (b"", "cannot be read"),
    "png.npy": (png(GREY), "cannot be read"),
    "cut.npy": (npy(random_map(9, 9))[:-8], "its length is not what its header says"),
    "more.npy": (npy(random_map(9, 9)) + b"more", "its length is not what its header says"),
    "claims.npy": (npy_that_claims((1 << 20, 1 << 20)), "too many pixels"),
    "negative.npy": (npy_that_claims((-8, -8)), "is empty|cannot be read"),
    "huge.npy": (npy_that_claims((1 << 62, 1 << 62)), "too many pixels"),
    "words.npy": (npy(np.array([["a"]])), "expected numbers"),
    "objects.npy": (npy(np.array([[None]]), allow_pickle=True), "expected numbers"),
    "complex.npy": (npy(np.zeros((2, 2), complex)), "expected numbers"),
    "record.npy": (npy(np.zeros((2, 2), [("a", "f4")])), "expected numbers"),
    "int64.npy": (npy(np.zeros((2, 2), np.int64)), "full value is not known"),
    "uint32.npy": (npy(np.zeros((2, 2), np.uint32)), "full value is not known"),
    "nan.npy": (npy(np.full((2, 2), np.nan)), "NaN"),
    "infinite.npy": (npy(np.full((2, 2), np.inf)), "infinite"),
    "above.npy": (npy(np.full((2, 2), 1.01)), "from 1.01 to 1.01"),
    "below.npy": (npy(np.full((2, 2), -0.5)), "lies in 0..1"),
    "logits.npy": (npy(np.array([[-4.0, 7.0]])), "from -4 to 7"),
    "classes.npy": (npy(np.zeros((2, 8, 8))), r"shape \(2, 8, 8\)"),
    "number.npy": (npy(np.float32(0.5)), r"shape \(\)"),
    "nothing.npy": (npy(np.zeros((0, 8))), "is empty"),
    "no.npz": (b"PK\x05\x06" + b"\0" * 18, "holds 0 arrays"),
    "text.npz": (b"a text", "cannot be read"),
    "claims.npz": (zipped(npy_that_claims((1 << 20, 1 << 20))), "too many pixels"),
    "short.npz": (zipped(npy_that_claims((50, 50))), "its length is not what its header says"),
    "pickle.npz": (zipped(npy(np.array([[None]]), allow_pickle=True)), "expected numbers"),
    "cut.npz": (zipped(npy(random_map(9, 9)))[:-30], "cannot be read"),
    "other.tif": (b"II*\0", "a map is one of"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_and_damaged_files_are_refused_by_name(tmp_path, name):
    content, said = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadImage, match=said) as caught:
        read_map(tmp_path / name, MOST)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_deflated_bomb_is_not_unpacked(tmp_path, monkeypatch):
    """A megabyte that unpacks to a gigabyte behind a header that claims four pixels."""
    (tmp_path / "x.npz").write_bytes(zipped(npy_that_claims((2, 2), b"\0" * 50_000_000)))
    read: list[int] = []
    whole = zipfile.ZipExtFile.read
    monkeypatch.setattr(
        zipfile.ZipExtFile,
        "read",
        lambda stream, n=-1: read.append(n) or whole(stream, n),
    )
    with pytest.raises(BadImage, match="its length"):
        read_map(tmp_path / "x.npz", MOST)
    assert 0 <= min(read) <= max(read) < 1000


def test_a_pickle_is_never_run(tmp_path):
    proof = tmp_path / "proof"
    for name, content in (
        ("x.npy", npy(np.array([[Opens(proof)]], dtype=object), allow_pickle=True)),
        ("y.npy", pickle.dumps(Opens(proof))),
        ("z.npz", pickle.dumps(Opens(proof))),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadImage):
            read_map(tmp_path / name, MOST)
    assert not proof.exists()
    pickle.loads((tmp_path / "y.npy").read_bytes())
    assert proof.exists()


def test_folders_and_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "x.png").mkdir()
    (tmp_path / "y.npy").symlink_to(tmp_path / "y.npy")
    (tmp_path / "z.npz").symlink_to(tmp_path / "nowhere")
    for name in ("x.png", "y.npy", "z.npz", "absent.png"):
        with pytest.raises(BadImage):
            read_map(tmp_path / name, MOST)


@settings(on_files, max_examples=150)
@given(st.data())
def test_whatever_damage_gives_a_map_or_a_bad_image(tmp_path, data):
    suffix, content = data.draw(
        st.sampled_from(
            [
                (".npy", npy(random_map(5, 6))),
                (".npz", zipped(npy(random_map(5, 6)))),
                (".png", png(GREY)),
                (".png", png(WIDE)),
            ]
        )
    )
    damaged = bytearray(content[: data.draw(st.integers(1, len(content)))])
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / f"x{suffix}"
    file.write_bytes(damaged)
    values = np.zeros((1, 1))
    with contextlib.suppress(BadImage):  # any other error fails the test
        values = read_map(file, MOST).values
    assert values.ndim == 2
    assert 0 <= values.min() <= values.max() <= 1
