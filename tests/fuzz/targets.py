"""What is fuzzed: for every kind of file, good ones, how they are broken, and who reads them."""

import contextlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from PIL import Image

from sparsevit_plugin.cards.datasets import DatasetCard
from sparsevit_plugin.cards.models import read_model_card
from sparsevit_plugin.cards.reading import find_cards, read_card
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import file_name
from sparsevit_plugin.harness import ladders
from sparsevit_plugin.harness.checkpoint import RESUME_NAME, TrainingState, load_state, save_state
from sparsevit_plugin.harness.images import decode_image, decode_mask, decode_upright, upright_size
from sparsevit_plugin.harness.importer import import_set
from sparsevit_plugin.harness.jpeg import is_jpeg, luma_of
from sparsevit_plugin.harness.leak import photograph_hash
from sparsevit_plugin.harness.map_files import read_map
from sparsevit_plugin.harness.mask_rules import read_ruled_mask
from sparsevit_plugin.harness.photo_paths import find_photographs
from sparsevit_plugin.harness.predict import Prediction
from sparsevit_plugin.harness.prediction_files import PredictionFolder, Wanted
from sparsevit_plugin.harness.recipes import load_recipe, shipped
from sparsevit_plugin.harness.sources import each_once, fingerprint, hold_out, read_source
from sparsevit_plugin.harness.testing import checkpoint_facts, recorded_settings
from sparsevit_plugin.hub.config import read_config
from sparsevit_plugin.model.weights import load_into, read_checkpoint, save_safetensors
from sparsevit_plugin.protocol.schema import load_protocol
from sparsevit_plugin.results.published import Published
from sparsevit_plugin.results.store import Store
from tests.conftest import mask_array, photo_array
from tests.fuzz.mutate import (
    HOSTILE_NAMES,
    mutate_bytes,
    mutate_json,
    mutate_png,
    mutate_value,
    mutate_yaml,
)
from tests.fuzz.watch import Violation, run_command
from tests.results.helpers import counted, histogram, manifest

MOST_PIXELS = 1 << 22
"""The limit while fuzzing: what may be decoded is not to fill a shared machine's memory."""


@dataclass(frozen=True)
class Case:
    """A folder of one's own, and what is read and written in it.

    Attributes:
        folder: The folder; `out` in it may be written, nothing else.
        draw: Where everything random comes from.
    """

    folder: Path
    draw: Random

    @property
    def out(self) -> Path:
        """The only folder that may be written."""
        return self.folder / "a" / "b" / "out"

    @property
    def into(self) -> Path:
        """The folder of the material."""
        return self.folder / "a" / "b" / "in"

    @property
    def canary(self) -> Path:
        """A file that only code out of hostile files would make."""
        return self.folder / "canary"

    def put(self, name: str, data: bytes) -> Path:
        """Write a file of the material."""
        path = self.into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path


Read = Callable[[], object]
Kind = Callable[[Case], Read]
"""Writes the material of a case and returns what reads it."""


# --- pictures -------------------------------------------------------------------------------------


@cache
def _picture(form: str) -> tuple[str, bytes]:
    """Return the suffix and the bytes of a good picture."""
    photo = Image.fromarray(photo_array(40, 56, 3))
    mask = Image.fromarray(mask_array(40, 56, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    if form == "png16":
        wide = np.random.default_rng(0).integers(0, 65536, (40, 56, 3)).astype(np.uint16)
        return ".png", cv2.imencode(".png", wide)[1].tobytes()
    save: dict[str, Callable[[], None]] = {
        "jpeg": lambda: photo.save(buffer, "JPEG", quality=85, exif=exif),
        "progressive": lambda: photo.save(buffer, "JPEG", progressive=True),
        "cmyk": lambda: photo.convert("CMYK").save(buffer, "JPEG"),
        "png": lambda: photo.save(buffer, "PNG", exif=exif),
        "palette": lambda: photo.quantize(16).save(buffer, "PNG", transparency=bytes(range(16))),
        "tiff": lambda: photo.save(buffer, "TIFF", compression="tiff_lzw"),
        "plain-tiff": lambda: mask.save(buffer, "TIFF"),
        "jpeg-tiff": lambda: photo.save(buffer, "TIFF", compression="jpeg"),
        "webp": lambda: photo.save(buffer, "WEBP", quality=80, exif=exif),
        "bmp": lambda: photo.save(buffer, "BMP"),
        "gif": lambda: photo.save(buffer, "GIF"),
        "ppm": lambda: photo.save(buffer, "PPM"),
        "tga": lambda: photo.save(buffer, "TGA"),
        "jp2": lambda: photo.save(buffer, "JPEG2000"),
        "mask-png": lambda: mask.save(buffer, "PNG"),
        "mask-bits": lambda: mask.convert("1").save(buffer, "PNG"),
        "mask-jpeg": lambda: mask.save(buffer, "JPEG", quality=95),
    }
    save[form]()
    suffixes = {"progressive": "jpg", "cmyk": "jpg", "jpeg": "jpg", "palette": "png"}
    return (
        f".{suffixes.get(form, form.rsplit('-', maxsplit=1)[-1].replace('bits', 'png'))}",
        buffer.getvalue(),
    )


def _broken(form: str, draw: Random) -> tuple[str, bytes]:
    suffix, data = _picture(form)
    if suffix == ".png" and draw.random() < 0.7:
        data = mutate_png(data, draw)
    else:
        data = mutate_bytes(data, draw)
    if draw.random() < 0.05:
        suffix = draw.choice((".jpg", ".png", ".tif", ".webp", ".bmp", ".gif"))
    return suffix, data


def _pictures(*forms: str) -> Kind:
    def kind(case: Case) -> Read:
        suffix, data = _broken(case.draw.choice(forms), case.draw)
        path = case.put(f"x{suffix}", data)
        rule = case.draw.choice(("default", "inverted", "nonzero", "green", "red"))

        def luma() -> None:
            photograph = decode_image(path)
            if is_jpeg(path):
                luma_of(path, photograph.pixels, photograph.notes)

        doors: tuple[Callable[[], object], ...] = (
            *(lambda: decode_image(path), lambda: decode_mask(path), lambda: decode_upright(path)),
            *(lambda: upright_size(path), lambda: photograph_hash(path)),
            *(lambda: read_ruled_mask([path], rule), luma),
        )
        return lambda: _each(doors)

    return kind


def _each(doors: tuple[Callable[[], object], ...]) -> None:
    """Go through every door; the first refusal is the case's, once all were tried."""
    refusal: UserError | None = None
    for door in doors:
        try:
            door()
        except UserError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal


# --- maps -----------------------------------------------------------------------------------------


@cache
def _array(form: str) -> bytes:
    values = np.random.default_rng(1).random((40, 56)).astype(np.float32)
    buffer = io.BytesIO()
    if form == "npy":
        np.save(buffer, values)
    elif form == "npz":
        np.savez_compressed(buffer, map=values, more=values)
    else:
        np.savez(buffer, values > 0.5)
    return buffer.getvalue()


_HEADERS = (
    *("(1048576, 1048576)", "(-1, 5)", "(0, 0)", "()", "(40, 56, 1, 1)", "(1" + "0" * 400 + ",)"),
    *("(40, 56.0)", "'x'", "None", "__import__('os')", "(" * 500, "((40,), 56)", "(True, False)"),
)
_TYPES = ("'|O'", "'<f8'", "'>f4'", "'<U9'", "'|V8'", "[('a', '<f4')]", "'<M8[s]'", "'<c16'", "'x'")


def _mutate_array(data: bytes, draw: Random) -> bytes:
    way = draw.random()
    if way < 0.5:
        return mutate_bytes(data, draw)
    shape = draw.choice(("(40, 56)", *_HEADERS))
    kind = draw.choice(("'<f4'", *_TYPES))
    order = draw.choice(("False", "True", "2"))
    header = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}"
    text = header.encode() + b" " * (64 - (len(header) + 11) % 64) + b"\n"
    version = draw.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"))
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text) & 0xFFFF)
    values = np.random.default_rng(1).random((40, 56)).astype(np.float32)
    values.ravel()[draw.randrange(values.size)] = draw.choice((np.nan, np.inf, -1, 2, 0.5))
    return b"\x93NUMPY" + version + size + text + values.tobytes()


def _maps(case: Case) -> Read:
    form = case.draw.choice(("npy", "npz", "mask"))
    data = _array(form)
    if form == "npy":
        data = _mutate_array(data, case.draw)
    elif case.draw.random() < 0.5:
        data = _rezipped(data, case.draw, _mutate_array)
    else:
        data = mutate_bytes(data, case.draw)
    path = case.put(f"x.{'npy' if form == 'npy' else 'npz'}", data)
    if form == "mask":
        return lambda: read_ruled_mask([path], "nonzero")
    return lambda: read_map(path, MOST_PIXELS)


def _map_pictures(case: Case) -> Read:
    _, data = _broken(case.draw.choice(("png", "png16", "mask-png")), case.draw)
    path = case.put("x.png", data)
    return lambda: read_map(path, MOST_PIXELS)


def _rezipped(data: bytes, draw: Random, mutate: Callable[[bytes, Random], bytes]) -> bytes:
    """Change entries of an archive, their contents and their names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        chosen = draw.choice(names)
        for name in names:
            content = old.read(name)
            if name == chosen:
                content = mutate(content, draw)
                if draw.random() < 0.2:
                    name = draw.choice(HOSTILE_NAMES).encode("utf-8", "replace").decode()  # noqa: PLW2901
            new.writestr(name or "x", content)
    return buffer.getvalue()


# --- lists and manifests --------------------------------------------------------------------------


def _small_set(case: Case) -> Path:
    for number in range(3):
        case.put(f"set/Tp/{number}.png", _picture("png")[1])
        case.put(f"set/Gt/{number}.png", _picture("mask-png")[1])
    return case.into / "set"


_LISTS: tuple[Any, ...] = (
    [["Tp/0.png", "Gt/0.png"], ["Tp/1.png", "Negative"], ["Tp/2.png", "Gt/2.png"]],
    [["ManiDataset", "."], ["JsonDataset", "good.json"]],
    {"one": "good.json", "two": [["Tp/0.png", "Gt/0.png"]], "three": "."},
)


def _lists(case: Case) -> Read:
    folder = _small_set(case)
    case.put("set/good.json", json.dumps(_LISTS[0]).encode())
    data = mutate_json(case.draw.choice(_LISTS), case.draw)
    if case.draw.random() < 0.4:
        named = {case.draw.choice(HOSTILE_NAMES): case.draw.choice(("good.json", ".", _LISTS[0]))}
        data = json.dumps(named).encode()
    path = case.put("set/list.json", data)
    store = Store(case.out / "results")

    def read() -> None:
        for name, source in read_source(path).items():
            fingerprint(source)
            whole = each_once(source)
            for sample in whole.samples:
                decode_image(sample.image)
            (case.out / file_name(name)).mkdir(parents=True, exist_ok=True)
            rows = [counted(sample.name, 3, 1, 1, 5) for sample in whole.samples]
            store.write(manifest("A"), name, rows, [], {"fingerprint": fingerprint(source)})
            hold_out(source, 0.5)

    if case.draw.random() < 0.15:
        return lambda: run_command("data", "check", str(path), "--json", str(case.out / "r.json"))
    del folder
    return read


def _manifests(case: Case) -> Read:
    folder = _small_set(case)
    images = {f"Tp/{n}.png": {"photos": [f"photo{n}", f"photo{n + 1}"]} for n in range(3)}
    good = {"schema": 1, "kind": "sparsevit-corpus", "images": images}
    case.put("set/manifest.json", mutate_json(good, case.draw))

    def read() -> None:
        for source in read_source(folder).values():
            fingerprint(source)
            hold_out(source, 0.5)

    return read


# --- cards ----------------------------------------------------------------------------------------


def _dump(value: Any) -> str:
    try:
        return yaml.safe_dump(value, allow_unicode=True)
    except RecursionError:  # PyYAML's own; JSON is YAML too
        return json.dumps(value)


@cache
def _card(path: Path) -> tuple[str, Any]:
    text = path.read_text(encoding="utf-8")
    return text, yaml.safe_load(text)


def _cards(files: Callable[[], list[Path]], read: Callable[[Path], object]) -> Kind:
    def kind(case: Case) -> Read:
        original = case.draw.choice(files())
        text, value = _card(original)
        data = mutate_yaml(text, value, _dump, str(case.canary), case.draw)
        path = case.put(original.name, data)
        return lambda: read(path)

    return kind


def _card_files(kind: str) -> Callable[[], list[Path]]:
    return lambda: list(find_cards(kind).values())


def _config_files(folder: str) -> Callable[[], list[Path]]:
    return lambda: list(shipped(f"sparsevit_plugin.benchmark_configs.{folder}").values())


def _read_augmentation(path: Path) -> object:
    from sparsevit_plugin.harness.augment import describe, transform_names

    return transform_names(str(path)), describe(str(path))


def _read_ladders(path: Path) -> object:
    kind = ladders._Networks if path.stem == "networks" else ladders._Ladders
    return read_card(path, kind, "a list")


# --- checkpoints ----------------------------------------------------------------------------------


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))


@cache
def _weights(form: str) -> bytes:
    model, buffer = _model(), io.BytesIO()
    state = {"model": model.state_dict(), "epoch": 3}
    if form == "zip":
        torch.save(state, buffer)
    elif form == "legacy":
        torch.save(state, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


class _Runs:
    """Pickles to a call."""

    def __init__(self, call: Any, *words: Any) -> None:
        self._made = (call, words)

    def __reduce__(self) -> tuple[Any, Any]:
        return self._made


def _attack(case: Case) -> bytes:
    """Return a pickle that would leave the canary if anything ran it."""
    import builtins
    import os
    import subprocess

    canary = str(case.canary)
    attacks: tuple[Callable[[], bytes], ...] = (
        lambda: pickle.dumps(_Runs(os.system, f"touch {canary}")),
        lambda: pickle.dumps({"model": _Runs(builtins.exec, f"open({canary!r}, 'w')")}),
        lambda: pickle.dumps({"w": _Runs(builtins.eval, f"open({canary!r}, 'w')")}),
        lambda: pickle.dumps({"w": _Runs(subprocess.Popen, ["touch", canary])}),
        lambda: pickle.dumps(_Runs(builtins.open, canary, "w"), protocol=0),
        f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode,
        f"(S'touch {canary}'\niposix\nsystem\n.".encode,
        lambda: f"\x80\x02ctorch.hub\nload\n(X\x04\x00\x00\x00{'evil'}tR.".encode("latin-1"),
        lambda: b"\x80\x04" + b"(" * 50_000 + b".",
        lambda: b"\x80\x04" + b"]" + b"\x94" * 1000 + b"a" * 1000 + b".",
        lambda: b"\x80\x04]" + b"2a" * 10_000 + b".",
        lambda: b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".",
        lambda: b"\x80\x02\x8b\xff\xff\xff\x7f.",
        lambda: b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        lambda: b"\x80\x02j\xff\xff\xff\xff.",
        lambda: b"\x80\x02cargparse\nNamespace\n)\x81}X\x01\x00\x00\x00a\x88sb.",
        lambda: (
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00(J\xff\xff\xff\x7ft(K\x00t\x89}tR."
        ),
    )
    return case.draw.choice(attacks)()


def _checkpoints(case: Case) -> Read:
    draw = case.draw
    way, data = draw.random(), _weights(draw.choice(("zip", "legacy")))
    if way < 0.25:
        data = _attack(case)
    elif way < 0.4:
        attack = _attack(case)
        data = _rezipped(_weights("zip"), draw, lambda content, _: attack)
    elif way < 0.6:
        data = _rezipped(_weights("zip"), draw, mutate_bytes)
    else:
        data = mutate_bytes(data, draw)
    path = case.put("best.pth", data)
    return lambda: _load(path, case)


def _load(path: Path, case: Case) -> None:
    def facts() -> None:
        checkpoint_facts(read_checkpoint(path).metadata)

    _each((lambda: load_into(_model(), path), lambda: recorded_settings(str(path)),
           lambda: read_config(path), facts))  # fmt: skip


@cache
def _safetensors(folder: Path) -> bytes:
    path = folder / "good.safetensors"
    header = {
        "model": "SparseViT_tiny",
        "model_arguments": json.dumps({"depth": [1, 1, 1, 1]}),
        "options": json.dumps({"image_size": 64, "fit": "resize"}),
        "pretraining": json.dumps("none (random weights)"),
        "epoch": "3",
        "selection": "val",
    }
    save_safetensors(_model(), path, header)
    data = path.read_bytes()
    path.unlink()
    return data


def _tensor_files(case: Case) -> Read:
    draw, data = case.draw, _safetensors(Path("/tmp") if not case else case.folder.parent)
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    way = draw.random()
    if way < 0.3:
        data = mutate_bytes(data, draw)
    elif way < 0.65:
        # The header's texts hold JSON that other programs write.
        key = draw.choice(("model_arguments", "options", "pretraining"))
        text = mutate_json(json.loads(header["__metadata__"][key]), draw)
        header["__metadata__"][key] = text.decode("utf-8", "replace")
        data = _with_header(json.dumps(header).encode(), data[8 + size :])
    else:
        data = _with_header(mutate_json(header, draw), data[8 + size :])
    path = case.put("best.safetensors", data)
    return lambda: _load(path, case)


def _with_header(header: bytes, tensors: bytes) -> bytes:
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + tensors


@cache
def _resume(folder: Path) -> bytes:
    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    path = folder / "good.pt"
    save_state(TrainingState(model.state_dict(), optimizer.state_dict(), epoch=2), path)
    data = path.read_bytes()
    path.unlink()
    return data


def _resumed(case: Case) -> Read:
    draw, data = case.draw, _resume(case.folder.parent)
    way = draw.random()
    if way < 0.2:
        data = _attack(case)
    elif way < 0.6:
        content = torch.load(io.BytesIO(data), weights_only=True)
        broken = mutate_value({k: content[k] for k in content if k not in ("model",)}, draw)
        buffer = io.BytesIO()
        with contextlib.suppress(RecursionError):  # what is nested too deeply is cut short
            torch.save(broken, buffer)
        data = buffer.getvalue()
    elif way < 0.8:
        data = _rezipped(data, draw, mutate_bytes)
    else:
        data = mutate_bytes(data, draw)
    path = case.put(RESUME_NAME, data)
    return lambda: load_state(path)


# --- stored results -------------------------------------------------------------------------------

_MANIFEST = {
    "manifest_id": "id-A",
    "model": "A",
    "checkpoint": {"file": "best.safetensors", "sha256": "0" * 64, "epoch": 3},
    "selection": "val",
    "pretraining": ["weights.pth"],
    "code_version": "0.1.0",
    "libraries": {"torch": "2.6.0"},
    "seed": 3,
    "series": "s",
    "group": "g",
    "complexity": {"parameters": 3, "macs": 5, "counter": "torch", "image_size": 64},
    "backend": "torch",
    "number_format": "32",
    "training_data": {"casia": "f"},
    "created": "2026-01-01T00:00:00+00:00",
    "command": ["benco", "test"],
    "config": {"options": {"image_size": 64, "checkpoint": "best.safetensors", "output_dir": "."}},
    "device": "cpu",
    "threshold": 0.5,
    "fit": "resize",
    "image_size": 64,
    "model_arguments": {"depth": [1, 1, 1, 1]},
}
_FACTS = {"fingerprint": "abc", "path": "set", "skipped": [], "pairing": "name", "notes": []}
_ROWS = [
    counted("Tp/a.png", 3, 1, 1, 5, photos=["cat", "dog"], score=0.9, auc=0.8),
    counted("Tp/b.png", 2, 1, 4, 5, photos=["dog"], score=0.7, auc=0.6),
    counted("Au/c.png", 0, 2, 0, 9, photos=["cat"], score=0.2),
]


def _rows(case: Case) -> Read:
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = case.draw
    store = Store(case.into / "run" / "results")
    histograms = [histogram(row["sample_name"]) for row in _ROWS]
    path = store.write(_MANIFEST, "casia", _ROWS, histograms, _FACTS)
    store.write({**_MANIFEST, "manifest_id": "id-B", "model": "B"}, "casia", _ROWS, [], _FACTS)
    way = draw.random()
    if way < 0.2:
        path.write_bytes(mutate_bytes(path.read_bytes(), draw))
    elif way < 0.6:
        table = pq.read_table(path)
        note = json.loads(table.schema.metadata[b"sparsevit_plugin"])
        text = mutate_json(note, draw)
        pq.write_table(table.replace_schema_metadata({b"sparsevit_plugin": text}), path)
    else:
        table = _broken_table(pq.read_table(path), draw)
        pq.write_table(table, path)
    del pa
    return _shown(case)


def _broken_table(table: Any, draw: Random) -> Any:
    import pyarrow as pa

    for _ in range(draw.randint(1, 3)):
        if not table.num_columns:
            break
        place = draw.randrange(table.num_columns)
        field, count = table.schema.field(place), table.num_rows
        values = (
            *(None, float("nan"), float("inf"), -1e308, -1.0, -1, 2**62, -(2**63), 0),
            *(_plain(draw.choice(HOSTILE_NAMES)), [1, 2], {"a": 1}),
        )
        if draw.random() < 0.2:
            table = table.remove_column(place)
            continue
        if draw.random() < 0.1:
            table = table.slice(0, draw.choice((0, 1)))
            continue
        array = pa.array([draw.choice(values)] * count)
        with contextlib.suppress(pa.ArrowException):
            array = array.cast(field.type) if draw.random() < 0.7 else array
        table = table.set_column(place, pa.field(field.name, array.type), array)
    return table


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _shown(case: Case) -> Read:
    run, out = str(case.into / "run"), case.out
    out.mkdir(parents=True, exist_ok=True)
    words = case.draw.choice(
        (
            ("table", run, "--out", str(out / "t.md")),
            ("table", run, "--metric", "pixel_f1,pixel_auc", "--format", "latex"),
            (
                "table",
                run,
                "--metric",
                "image_auc",
                "--format",
                "html",
                "--out",
                str(out / "t.html"),
            ),
            ("report", run, "--no-images", "--out", str(out / "r.html")),
            ("report", run, "--images", "1", "--device", "cpu", "--out", str(out / "r.html")),
        )
    )
    return lambda: run_command(*words)


def _runs(case: Case) -> Read:
    """Break what stands beside the rows: run.json and the log."""
    draw = case.draw
    Store(case.into / "run" / "results").write(_MANIFEST, "casia", _ROWS, [], _FACTS)
    run = {"config": {"options": {"name": "A", "model": "A", "seed": 0}, "recipe": {}}}
    log = [{"epoch": 0, "position": 0.1 * n, "loss": 1 / (n + 1), "lr": 1e-4} for n in range(9)]
    log.append({"epoch": 0, "position": 0.9, "pixel_f1": 0.4, "select": "val"})
    lines = [json.dumps(line).encode() for line in log]
    case.put("run/run.json", json.dumps(run).encode())
    if draw.random() < 0.5:
        case.put("run/run.json", mutate_json(run, draw))
    else:
        for _ in range(draw.randint(1, 3)):
            lines[draw.randrange(len(lines))] = mutate_json(draw.choice(log), draw)
    case.put("run/metrics.jsonl", b"\n".join(lines) + b"\n")
    out = case.out
    out.mkdir(parents=True)
    return lambda: run_command(
        "report", str(case.into / "run"), "--no-images", "--out", str(out / "r.html")
    )


# --- names ----------------------------------------------------------------------------------------


def _file_name(draw: Random, suffix: str) -> str:
    """Return a name that the file system takes."""
    text = _plain(draw.choice(HOSTILE_NAMES)).replace("\0", "").replace("/", draw.choice("_/"))
    text = "/".join(part[:200] for part in text.split("/") if part not in ("", ".", ".."))
    return f"{text or 'plain'}{draw.choice(('', '..', '.png', ' ', '{}'))}{suffix}"


def _names(case: Case) -> Read:
    """Photographs of hostile names go through what predict writes."""
    names = {_file_name(case.draw, case.draw.choice((".png", ".jpg", ".PNG"))) for _ in range(4)}
    for name in names:
        case.put(f"photos/{name}", _picture("mask-png")[1])
    settings = {"model": "A", "threshold": 0.5}
    values = np.full((40, 56), 0.7, np.float32)

    def read() -> None:
        folder = PredictionFolder(case.out, settings, Wanted())
        photos = find_photographs([str(case.into / "photos")], case.out)
        for photo in photos:
            folder.write(photo, Prediction(photo.name, values, 0.7, seconds=0.1))
        if len(folder.finish(photos)) != len(photos) or not all(map(folder.is_done, photos)):
            raise Violation("a photograph's result is lost")

    return read


_SET_CARD = r"""name: Mine
title: A set
where: here
counts:
  - {tampered: 3, source: me}
layout: sourced
layout_source:
  - {url: https://example.org, what: folders}
import:
  example: [Tp/a.png]
  rules:
    - label: tampered
      image: 'Tp/(?P<stem>.+)\.(png|jpg)'
      masks: ['Gt/{stem}.png', 'Gt/{stem}.npz']
      mask_rule: nonzero
  mask_files: ['Gt/.*']
"""


def _imports(case: Case) -> Read:
    draw = case.draw
    card_file = case.put("Mine.yaml", _SET_CARD.encode())
    for _ in range(4):
        name = _file_name(draw, "")
        image, mask = _picture("png")[1], _picture("mask-png")[1]
        if draw.random() < 0.4:
            image = _broken("png", draw)[1]
        if draw.random() < 0.4:
            mask = _broken("mask-png", draw)[1]
        case.put(f"source/Tp/{name}.png", image)
        if draw.random() < 0.2:
            case.put(f"source/Gt/{name}.npz", _mutate_array(_array("mask"), draw))
        else:
            case.put(f"source/Gt/{name}.png", mask)
    if draw.random() < 0.2:
        (case.into / "source" / "Tp" / "link.png").symlink_to(case.folder / "elsewhere.png")
    case.out.mkdir(parents=True, exist_ok=True)
    allow = draw.random() < 0.8

    def read() -> None:
        card = read_card(card_file, DatasetCard, "a data set card")
        target = case.out / "set"
        link = draw.choice(("copy", "symlink", "hard"))
        import_set(card, case.into / "source", target, link=link, allow_mismatched=allow,
                   allow_unmatched=allow)  # fmt: skip
        for source in read_source(target / "list.json").values():
            for sample in each_once(source).samples:
                decode_image(sample.image)

    return read


KINDS: dict[str, Kind] = {
    "JPEG": _pictures("jpeg", "progressive", "cmyk", "mask-jpeg"),
    "PNG": _pictures("png", "palette", "png16", "mask-png", "mask-bits"),
    "TIFF": _pictures("tiff", "plain-tiff", "jpeg-tiff"),
    "WebP": _pictures("webp"),
    "BMP": _pictures("bmp"),
    "other pictures": _pictures("gif", "ppm", "tga", "jp2"),
    "maps, PNG": _map_pictures,
    "maps, npy and npz": _maps,
    "lists": _lists,
    "manifests": _manifests,
    "model cards": _cards(_card_files("model"), read_model_card),
    "data set cards": _cards(
        _card_files("dataset"), lambda path: read_card(path, DatasetCard, "a data set card")
    ),
    "protocols": _cards(_card_files("protocol"), lambda path: load_protocol(str(path))),
    "published numbers": _cards(
        _card_files("published"), lambda path: read_card(path, Published, "a published card")
    ),
    "recipes": _cards(_config_files("recipes"), lambda path: load_recipe(str(path))),
    "augmentations": _cards(_config_files("augmentations"), _read_augmentation),
    "ladders": _cards(_config_files("robustness"), _read_ladders),
    "checkpoints, pickles": _checkpoints,
    "checkpoints, safetensors": _tensor_files,
    "resume.pt": _resumed,
    "result rows": _rows,
    "run.json and logs": _runs,
    "names of photographs": _names,
    "imported sets": _imports,
}
"""Every kind of case by its name."""
