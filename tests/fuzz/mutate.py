"""Ways to break a file: of bytes, of JSON and YAML, and of formats whose checksums must still fit.

Everything is drawn from the generator that is given, so that a case is known by its number.
"""

import copy
import itertools
import json
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

EXTREMES = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HOSTILE_NAMES = (
    *("../escaped", "../../escaped", "/tmp/escaped-by-fuzzing", "a/../../../escaped", "..", "."),
    *("a\0b", "a\nb: c", "\x1b[2Jcleared", "\ud800", "é\u202etxt.exe", "名前", "x" * 300, ""),
    *(
        " ",
        "-rf",
        "~",
        "$(touch escaped)",
        "<script>alert(1)</script>",
        "CON",
        "a\\..\\b",
        "{name}",
    ),
    *("%2e%2e%2fescaped", "a" * 5000, "#", "nan", "null", "http://localhost:9/x", "file:///etc/x"),
)
"""Names that lead elsewhere, cannot be written, or mean something to a shell or a browser."""

_MOST_STEPS = 4


def mutate_bytes(data: bytes, draw: Random) -> bytes:
    """Apply one to four changes: flipped bits, cuts, copies, extreme integers."""
    for _ in range(draw.randint(1, _MOST_STEPS)):
        if not data:
            return bytes(draw.randrange(256) for _ in range(draw.randint(0, 40)))
        data = draw.choice(_BYTE_CHANGES)(data, draw)
    return data


def _flip_bits(data: bytes, draw: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 2, 8, 64))):
        changed[_place(data, draw)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, draw: Random) -> bytes:
    return data[: draw.randrange(len(data))]


def _remove(data: bytes, draw: Random) -> bytes:
    start, end = _span(data, draw)
    return data[:start] + data[end:]


def _double(data: bytes, draw: Random) -> bytes:
    start, end = _span(data, draw)
    return data[:end] + data[start:end] * draw.choice((1, 2, 50)) + data[end:]


def _fill(data: bytes, draw: Random) -> bytes:
    start, end = _span(data, draw)
    return data[:start] + draw.choice((b"\0", b"\xff")) * (end - start) + data[end:]


def _insert(data: bytes, draw: Random) -> bytes:
    place = _place(data, draw)
    return data[:place] + draw.randbytes(draw.randint(1, 32)) + data[place:]


def _extreme_integer(data: bytes, draw: Random) -> bytes:
    code, place = draw.choice(("<H", ">H", "<I", ">I")), _place(data, draw)
    packed = struct.pack(code, draw.choice(EXTREMES) & (0xFFFF if code[1] == "H" else 0xFFFFFFFF))
    return data[:place] + packed + data[place + len(packed) :]


def _place(data: bytes, draw: Random) -> int:
    """Return an offset; every second one in what is usually the header."""
    return draw.randrange(min(len(data), 96) if draw.random() < 0.5 else len(data))


def _span(data: bytes, draw: Random) -> tuple[int, int]:
    start = _place(data, draw)
    return start, min(len(data), start + draw.choice((1, 4, 16, 256, 4096)))


_BYTE_CHANGES: tuple[Callable[[bytes, Random], bytes], ...] = (
    *(_flip_bits, _flip_bits, _truncate, _remove, _double, _fill, _insert),
    *(_extreme_integer, _extreme_integer),
)


# --- PNG, whose checksums would give every change away --------------------------------------------

_PNG_START = b"\x89PNG\r\n\x1a\n"


def mutate_png(data: bytes, draw: Random) -> bytes:
    """Change a PNG chunk by chunk, with checksums that fit: headers, sizes, order, contents."""
    chunks = _png_chunks(data)
    for _ in range(draw.randint(1, _MOST_STEPS)):
        place = draw.randrange(len(chunks))
        kind, content = chunks[place]
        way = draw.randrange(6)
        if way == 0:
            chunks.insert(draw.randrange(len(chunks) + 1), (kind, content))
        elif way == 1 and len(chunks) > 1:
            chunks.pop(place)
        elif way == 2:
            chunks[place] = (kind, mutate_bytes(content, draw))
        elif way == 3:
            chunks[place] = (draw.choice((b"IDAT", b"PLTE", b"tRNS", b"eXIf", b"zTXt", b"acTL")),
                             content)  # fmt: skip
        elif kind == b"IHDR" and len(content) == 13:
            chunks[place] = (kind, _png_header(content, draw))
    parts = [
        struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c))
        for kind, c in chunks
    ]
    return _PNG_START + b"".join(parts)


def _png_header(content: bytes, draw: Random) -> bytes:
    width, height, depth, colour = struct.unpack(">IIBB", content[:10])
    sizes = (0, 1, 7, width, 4096, 60_000, 1_000_000, 0x7FFFFFFF, 0xFFFFFFFF)
    width, height = draw.choice((width, *sizes)), draw.choice((height, *sizes))
    depth, colour = draw.choice((depth, 1, 2, 4, 8, 16, 3)), draw.choice((colour, 0, 2, 3, 4, 6, 5))
    return struct.pack(">IIBB", width, height, depth, colour) + content[10:12] + bytes(
        [draw.choice((content[12], 0, 1))]
    )  # fmt: skip


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, place = [], len(_PNG_START)
    while place + 8 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


# --- values of JSON and YAML ----------------------------------------------------------------------

HOSTILE_VALUES = (
    *(None, True, False, 0, -1, 1, 2**31, -(2**63), 2**64, 10**30, 10**400, 0.5, 1e308),
    *(float("nan"), float("inf"), float("-inf"), "", "text", [], {}, [[]], [None], {"": None}),
    *(["a", "b", "c"], {"a": {"b": {"c": []}}}, [1e400, "x", None], "9" * 5000),
    *HOSTILE_NAMES,
)


def mutate_value(value: Any, draw: Random) -> Any:
    """Change a tree of dicts and lists at one to four places."""
    root = [copy.deepcopy(value)]
    for _ in range(draw.randint(1, _MOST_STEPS)):
        holder, key = draw.choice(_places(root))
        _change(holder, key, draw)
        if not root:
            return None
    return root[0]


def _places(root: list[Any]) -> list[tuple[Any, Any]]:
    """Return every place of a tree as the container and the key or index in it."""
    found: list[tuple[Any, Any]] = []
    left: list[Any] = [root]
    while left:
        holder = left.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                left.append(holder[key])
    return found


def _change(holder: Any, key: Any, draw: Random) -> None:
    way = draw.randrange(8)
    if way == 0:
        del holder[key]
    elif way == 1:
        holder[key] = [copy.deepcopy(holder[key])] * draw.choice((1, 2, 100))
    elif way == 2 and isinstance(holder, dict):
        holder[draw.choice(HOSTILE_NAMES)] = holder.pop(key)
    elif way == 2:
        holder.insert(key, copy.deepcopy(holder[key]))
    elif way == 3 and isinstance(holder[key], str):
        holder[key] = _change_text(holder[key], draw)
    elif way == 4:
        holder[key] = nested(draw.choice((3, 60, 400)), draw.random() < 0.5)
    else:
        holder[key] = copy.deepcopy(draw.choice(HOSTILE_VALUES))


def _change_text(text: str, draw: Random) -> str:
    place = draw.randint(0, len(text))
    return text[:place] + draw.choice((*HOSTILE_NAMES, "(", "\\", "(a+)+$", "{")) + text[place:]


def nested(depth: int, as_list: bool) -> Any:
    """Return lists in lists, or dicts in dicts."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if as_list else {"a": value}
    return value


def mutate_json(value: Any, draw: Random) -> bytes:
    """Return the text of a changed value; sometimes itself damaged, or nested without an end."""
    way = draw.random()
    if way < 0.04:
        return draw.choice(("[", '{"a":', '[{"a":[')).encode() * draw.choice((1000, 50_000))
    text = json.dumps(mutate_value(value, draw), ensure_ascii=draw.random() < 0.5)
    data = text.encode("utf-8", "surrogatepass")
    if way < 0.3:
        data = mutate_bytes(data, draw)
    return draw.choice((b"", b"", b"", b"\xef\xbb\xbf", b"\xff\xfe")) + data


# --- YAML text ------------------------------------------------------------------------------------


def yaml_attacks(canary: str) -> tuple[str, ...]:
    """Return lines that have run code, filled memory or confused a reader of YAML somewhere."""
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
        for old, new in itertools.pairwise("abcdefghi")
    )
    return (
        f"x: !!python/object/apply:os.system ['touch {canary}']\n",
        f"x: !!python/object/new:subprocess.Popen [['touch', '{canary}']]\n",
        f"x: !!python/object/apply:builtins.open ['{canary}', 'w']\n",
        "x: !!python/name:os.system\n",
        "x: !!python/module:antigravity\n",
        bomb,
        "x: &x [*x]\n",
        "x: &x {y: *x}\n",
        "x: *nowhere\n",
        "? [1, 2]\n: 3\n",
        "? {a: b}\n: 3\n",
        "<<: [1, 2]\n",
        "<<: {name: other}\n",
        "x: 2001-99-99\n",
        "x: 2001-01-01T99:99:99Z\n",
        "x: !!timestamp later\n",
        "x: !!binary '%%%'\n",
        "x: !!int ''\n",
        "x: !!int 'many'\n",
        "x: !!float 'many'\n",
        "x: !!bool 'perhaps'\n",
        "x: !!set [1]\n",
        "x: !!omap {a: 1}\n",
        "x: !!pairs [[1]]\n",
        "x: 0x\n",
        "x: 0b\n",
        "x: 1:99:99:99\n",
        f"x: {'9' * 6000}\n",
        "x: .nan\n.nan: 1\n.nan: 2\n",
        "name: a\nname: b\n",
        "%YAML 9.9\n---\n",
        "--- a\n--- b\n",
        "x: \x07\n",
        "x: \ufffe\n",
        "\tx: 1\n",
        "x: " + "[" * 3000 + "\n",
        "x: " + "[" * 400 + "]" * 400 + "\n",
        "x: " + "{a: " * 2000 + "\n",
        "- " * 3000 + "1\n",
        "x: !<tag:unknown> 1\n",
        "x: !local 1\n",
    )


def mutate_yaml(
    text: str, value: Any, dump: Callable[[Any], str], canary: str, draw: Random
) -> bytes:
    """Return the text of a changed card: an attack added, values changed, or bytes damaged."""
    way = draw.random()
    if way < 0.35:
        attack = draw.choice(yaml_attacks(canary))
        lines = text.splitlines(keepends=True)
        if draw.random() < 0.5 and attack.startswith("x: "):
            # In place of a value that the card needs.
            place = draw.randrange(len(lines))
            key, colon, _ = lines[place].partition(":")
            lines[place] = f"{key}:{attack[2:]}" if colon else attack
        else:
            lines.insert(draw.choice((0, len(lines))), attack)
        return "".join(lines).encode()
    if way < 0.75:
        return dump(mutate_value(value, draw)).encode("utf-8", "surrogatepass")
    return mutate_bytes(text.encode(), draw)
