"""Ways to damage a file, or a value in it, and what is damaged: one file, and what reads it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm.base.tables import signed


def _flip(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice([1, 1, 2, 8])):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def _cut(data: bytearray, dice: random.Random) -> None:
    del data[dice.randrange(len(data)) :]


def _insert(data: bytearray, dice: random.Random) -> None:
    place = dice.randrange(len(data) + 1)
    data[place:place] = dice.randbytes(dice.choice([1, 4, 100]))


def _repeat(data: bytearray, dice: random.Random) -> None:
    start = dice.randrange(len(data))
    block = bytes(data[start : start + dice.choice([1, 16, 256])])
    data[start:start] = block * dice.choice([1, 3, 1000])


def _overwrite(data: bytearray, dice: random.Random) -> None:
    length = dice.choice([1, 2, 4, 8])
    place = dice.randrange(len(data))
    data[place : place + length] = dice.choice([b"\0", b"\xff", b"\x7f", b"9", b"["]) * length


def _remove(data: bytearray, dice: random.Random) -> None:
    start = dice.randrange(len(data))
    del data[start : start + dice.choice([1, 2, 16, 256])]


def _swap(data: bytearray, dice: random.Random) -> None:
    one, other, length = dice.randrange(len(data)), dice.randrange(len(data)), dice.choice([1, 8, 64])
    data[one : one + length], data[other : other + length] = data[other : other + length], data[one : one + length]


def _extend(data: bytearray, dice: random.Random) -> None:
    data += dice.choice([b"\0", b"\n", b"}", dice.randbytes(7)]) * dice.choice([1, 1000])


MUTATIONS = {
    one.__name__.strip("_"): one for one in (_flip, _cut, _insert, _repeat, _overwrite, _remove, _swap, _extend)
}
VALUES: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        1,
        2**31,
        2**63,
        2**64,
        10**30,
        10**4000,
        0.5,
        -0.0,
        1e-320,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *("", "x", "x" * 1000, "9" * 5000, "\0", "\ud800", "../../etc/passwd", [], {}, [[]], [None], {"": {}}, [1] * 1000),
]


def damaged(content: bytes, dice: random.Random) -> tuple[bytes, str]:
    """Bytes with one damage, and its name."""
    if not content:
        return dice.randbytes(10), "insert"
    name, data = dice.choice(list(MUTATIONS)), bytearray(content)
    MUTATIONS[name](data, dice)
    return bytes(data), name


def changed(table: Any, dice: random.Random) -> None:
    """Replace, remove or copy one value somewhere in a table, in place."""
    while True:
        keys = list(table) if isinstance(table, dict) else list(range(len(table)))
        if not keys:
            return
        key = dice.choice(keys)
        below = table[key]
        if isinstance(below, dict | list) and below and dice.random() < 0.8:
            table = below
            continue
        kind = dice.randrange(8)
        if kind == 0:
            del table[key]
        elif kind == 1 and isinstance(table, list):
            table.append(below)
        elif kind == 2 and isinstance(below, int | float) and not isinstance(below, bool):
            table[key] = dice.choice([below + 1, -below, below * 2, below * 1000, float(below)])
        else:
            table[key] = dice.choice(VALUES)
        return


@dataclass(frozen=True)
class Target:
    """One file in a folder of its own, `name`.

    file    that is damaged, below the folder
    read    what reads it
    inside  a member of the zip that it is, or "gzip": that is damaged, and packed again with right checksums
    values  a value of its JSON is changed instead of bytes, and it is signed again if it was
    rehash  the config.json beside it takes up its new SHA-256
    right   what `read` gives for the sound file, where damage must be noticed
    cheap   it takes a few milliseconds
    """

    name: str
    file: str
    read: Callable[[Path], object]
    inside: str = ""
    values: bool = False
    rehash: bool = False
    right: object = None
    cheap: bool = True

    def damage(self, folder: Path, dice: random.Random) -> str:
        """Damage the file in a copy of the folder; returns what was done."""
        path = folder / self.file
        content = path.read_bytes()
        inner = _unpacked(content, self.inside)
        if self.values:
            table = json.loads(inner)
            own = isinstance(table, dict) and table.pop("own_sha256", None) is not None
            changed(table, dice)
            inner, kind = json.dumps(signed(table) if own else table).encode("utf-8", "surrogatepass"), "value"
        else:
            inner, kind = damaged(inner, dice)
        path.write_bytes(_packed(content, self.inside, inner))
        if self.rehash:
            config = path.parent / "config.json"
            table = json.loads(config.read_text(encoding="utf-8"))
            del table["own_sha256"]
            table["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
            config.write_text(json.dumps(signed(table)), encoding="utf-8")
        return kind


def _unpacked(content: bytes, inside: str) -> bytes:
    if inside == "gzip":
        return gzip.decompress(content)
    if not inside:
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(inside)


def _packed(content: bytes, inside: str, inner: bytes) -> bytes:
    if not inside:
        return inner
    if inside == "gzip":
        return gzip.compress(inner, 1)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, inner if name == inside else old.read(name))
    return stream.getvalue()
