"""A second decoder of .dpc files, written from docs/format.md alone: grey and RGB images by linear models.

It shares no line with the package and none of its ways: Python's own integers, loops, and NumPy for the floats.
"""

from __future__ import annotations

import binascii
import functools
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

LOSSLESS, GREY, STORED, SEEDS, CLASS = 1, 2, 4, 8, 16
START, ORDER, SIGNS, CODEBOOK = 1, 2, 3, 4
WORD = 2**64 - 1

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Guesses = list[list[list[int]]]


class Refused(Exception):
    """A file that is damaged, cut inside its header, or of another model."""


class Ended(Exception):
    """The bytes end behind the header."""


# ---- bytes ----------------------------------------------------------------------------------------------------------


class Reader:
    """Bytes from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise Ended
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        parts = []
        while not parts or parts[-1] >= 128:
            if len(parts) == 5:
                raise Refused("a number of more than 35 bits")
            parts.append(self.take(1)[0])
        if parts[-1] == 0 and len(parts) > 1:
            raise Refused("a number that could be shorter")
        return sum((part % 128) * 128**place for place, part in enumerate(parts))


def crc16(data: bytes) -> int:
    """CRC-16/XMODEM, bit by bit."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def crc32(image: Pixels) -> bytes:
    """Of pixels (C, H, W), a pixel's channels side by side."""
    channels, height, width = image.shape
    body = bytes(int(image[c, r, q]) for r in range(height) for q in range(width) for c in range(channels))
    return binascii.crc32(body).to_bytes(4, "little")


@dataclass
class Head:
    """A file's header."""

    flags: int
    fingerprint: bytes
    height: int
    width: int
    units: int | None
    seeds: dict[int, int]


def read_head(reader: Reader) -> Head:
    try:
        if reader.take(3) != b"\x8f\x44\x50":
            raise Refused("another magic")
        version, flags = reader.take(2)
        if version != 1 or flags >= 32 or (flags & STORED and flags & ~(STORED | GREY)):
            raise Refused("version or flags")
        fingerprint = reader.take(4)
        height, width = reader.varint(), reader.varint()
        if not (1 <= height <= 65536 and 1 <= width <= 65536 and height * width <= 2**24):
            raise Refused("size")
        units = None if flags & (LOSSLESS | STORED) else reader.varint()
        if flags & CLASS:
            raise Refused("linear models have no classes")
        seeds: dict[int, int] = {}
        if flags & SEEDS:
            count, last = reader.varint(), -1
            if count == 0:
                raise Refused("seeds")
            for _ in range(count):
                tile, seed = reader.varint(), reader.varint()
                if tile <= last or seed == 0:
                    raise Refused("seeds")
                seeds[tile] = seed
                last = tile
        before = reader.at
        if int.from_bytes(reader.take(2), "little") != crc16(reader.data[:before]):
            raise Refused("checksum of the header")
    except Ended:
        raise Refused("cut inside the header") from None
    return Head(flags, fingerprint, height, width, units, seeds)


# ---- shared randomness ----------------------------------------------------------------------------------------------


def mix(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB & WORD
    return z ^ z >> 31


def make_key(*numbers: int) -> int:
    state = 0
    for number in numbers:
        state = mix(state ^ number)
    return state


def word(key: int, i: int) -> int:
    return mix(key + (i + 1) * 0x9E3779B97F4A7C15 & WORD)


@functools.cache
def quantile() -> list[int]:
    inverse = NormalDist().inv_cdf
    return [round(4096 * inverse((j + 0.5) / 4096)) for j in range(4096)]


def gauss(key: int, i: int) -> int:
    return quantile()[word(key, i) >> 52]


@functools.cache
def order(step: int, dimensions: int) -> list[int]:
    key = make_key(ORDER, step)
    return sorted(range(dimensions), key=lambda i: (word(key, i), i))


@functools.cache
def signs(step: int, dimensions: int) -> list[int]:
    key = make_key(SIGNS, step)
    return [-1 if word(key, place) >> 63 else 1 for place in range(dimensions)]


def codewords(bits: list[int]) -> list[int]:
    """The number of each segment's codeword."""
    count = len(bits)
    return [sum(bits[(i - age) % count] << age for age in range(min(12, count))) for i in range(count)]


def noise(bits: list[int], step: int, dimensions: int) -> list[int]:
    """In units of 1/4096."""
    key, count, where, sign = make_key(CODEBOOK), len(bits), order(step, dimensions), signs(step, dimensions)
    out = [0] * dimensions
    for i, codeword in enumerate(codewords(bits)):
        begin, end = i * dimensions // count, (i + 1) * dimensions // count
        for place in range(begin, end):
            out[where[place]] = gauss(key, 512 * codeword + place - begin) * sign[place]
    return out


# ---- the model ------------------------------------------------------------------------------------------------------


@dataclass
class Linear:
    """A linear model and its side file."""

    shape: tuple[int, int, int]
    abar: list[float]
    mean: Floats
    colours: Floats
    variance: Floats
    side: dict

    @property
    def steps(self) -> int:
        return len(self.side["bits"])


@functools.cache
def open_model(folder: Path) -> Linear:
    config = json.loads((folder / "config.json").read_text())
    side = json.loads((folder / "codec-averaged.json").read_text())
    content = {key: value for key, value in side.items() if key != "own_sha256"}
    weights = folder / "model.safetensors"
    assert (side["format"], side["format_version"]) == ("ddpm codec", 1)
    assert hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest() == side["own_sha256"]
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == side["weights_sha256"]
    recipe, tensors = config["recipe"], load_file(weights)
    assert recipe["network"]["linear"] == "alone"
    assert recipe["objective"]["prediction"] == "eps"
    shape = tuple(recipe["image"][name] for name in ("channels", "height", "width"))
    mean, colours, variance = (
        tensors[f"averaged/{name}"].astype(np.float64) for name in ("mean", "colours", "variance")
    )
    return Linear(shape, make_abar(**recipe["process"]), mean, colours, variance, side)


def make_abar(schedule: str, steps: int, beta_start: float = 1e-4, beta_end: float = 0.02, **_: object) -> list[float]:
    out = [1.0]
    for t in range(1, steps + 1):
        if schedule == "cosine":
            now, before = (math.cos(math.pi / 2 * (u / steps + 0.008) / 1.008) ** 2 for u in (t, t - 1))
            beta = min(1 - now / before, 0.999)
        else:
            assert schedule == "linear"
            beta = beta_start + (beta_end - beta_start) * (t - 1) / (steps - 1)
        out.append(out[-1] * (1 - beta))
    return out


def step_numbers(a: float, b: float, w: float) -> tuple[float, float, float, float]:
    """A, B, v and the spread of a step from abar a to abar b."""
    beta = 1 - a / b
    keep = (1 - b) * math.sqrt(1 - beta) / (1 - a)
    pull = math.sqrt(b) * beta / (1 - a)
    v = beta * (1 - b) / (1 - a)
    return keep, pull, v, math.sqrt(v + pull * pull * w)


@functools.cache
def cosine_matrix(n: int) -> Floats:
    rows = [[math.sqrt(2 / n) * math.cos(math.pi * (2 * p + 1) * f / (2 * n)) for p in range(n)] for f in range(n)]
    rows[0] = [value / math.sqrt(2) for value in rows[0]]
    return np.array(rows)


def clean(model: Linear, x: Floats, level: int) -> Floats:
    """x0 of one tile (C, h, w) at a level."""
    channels, height, width = model.shape
    abar = model.abar[level]
    signal, sigma, snr = math.sqrt(abar), math.sqrt(1 - abar), abar / (1 - abar)
    down, across = cosine_matrix(height), cosine_matrix(width)
    eps = np.zeros_like(x)
    for k in range(channels):
        y = sum(model.colours[k, c] * (x[c] - signal * model.mean[c]) for c in range(channels))
        u = down @ y @ across.T
        u = down.T @ (u / (sigma * (1 + snr * model.variance[k]))) @ across
        for c in range(channels):
            eps[c] += model.colours[k, c] * u
    return np.clip((x - sigma * eps) / signal, -1, 1)


def walk(model: Linear, units: list[list[int]], tile: int, seed: int) -> Floats:
    """The state of a tile after the steps whose bits there are."""
    size, levels = math.prod(model.shape), model.side["levels"]
    key = make_key(START, seed, tile)
    x = np.array([gauss(key, i) for i in range(size)], np.float64).reshape(model.shape) / 4096
    for step, bits in enumerate(units):
        a, b = model.abar[levels[step]], model.abar[levels[step + 1]]
        keep, pull, _, spread = step_numbers(a, b, model.side["errors"][step])
        z = np.array(noise(bits, step, size), np.float64).reshape(model.shape) / 4096
        x = keep * x + pull * clean(model, x, levels[step]) + spread * z
    return x


# ---- pixels ---------------------------------------------------------------------------------------------------------


@functools.cache
def exponentials() -> list[int]:
    return [round(2**16 * math.exp(-i / 64)) for i in range(1024)]


@functools.cache
def slopes() -> dict[int, int]:
    return {a: round(2**20 * math.exp(-a / 16)) for a in range(-32, 89)}


@functools.cache
def logistics() -> dict[int, int]:
    return {i: round(2**22 / (1 + math.exp(-i / 2048))) for i in range(-24576, 24577)}


def weights_of(logits: list[int]) -> list[int]:
    raw = [exponentials()[min(max(logits) - logit, 1023)] for logit in logits]
    return [2**16 * one // sum(raw) for one in raw]


def frequency(level: int, weights: list[int], means: list[int], scales: list[int]) -> int:
    """F(level)."""
    if level in (0, 256):
        return 2**24 * level // 256
    mass = 0
    for weight, mean, scale in zip(weights, means, scales, strict=True):
        place = (16 * level - 8 - mean) * slopes()[scale] >> 13
        mass += weight * logistics()[min(max(place, -24576), 24576)]
    return level + ((2**24 - 256) * mass >> 38)


class RangeDecoder:
    """Symbols with frequencies out of 2^24 from bytes."""

    def __init__(self, data: bytes) -> None:
        self.bytes = self._endless(data)
        self.range, self.code = 2**56, 0
        for _ in range(7):
            self.code = 256 * self.code + next(self.bytes)

    @staticmethod
    def _endless(data: bytes) -> Iterator[int]:
        yield from data
        while True:
            yield 0

    def target(self) -> int:
        return min(self.code // (self.range >> 24), 2**24 - 1)

    def take(self, start: int, end: int) -> None:
        unit = self.range >> 24
        self.range = unit * (end - start)
        self.code = min(self.code - unit * start, self.range - 1)
        while self.range < 2**40:
            self.code, self.range = 256 * self.code + next(self.bytes), 256 * self.range


def lines(height: int, width: int) -> list[list[tuple[int, int]]]:
    """The pixels, row and column, of each line."""
    out: list[list[tuple[int, int]]] = [[] for _ in range(4 * (height - 1) + width)]
    for row in range(height):
        for column in range(width):
            out[4 * row + column].append((row, column))
    return [line for line in out if line]


def product(matrix: list[list[int]], vector: list[int]) -> list[int]:
    return [sum(map(int.__mul__, row, vector)) for row in matrix]


def inputs_of(guess: Guesses, off: dict[tuple[int, int, int], int], c: int, row: int, column: int) -> list[int]:
    height, width = len(guess[0]), len(guess[0][0])
    channels, centre, out = len(guess), guess[c][row][column], []
    for d in range(channels):
        for i in range(-2, 3):
            for j in range(-2, 3):
                near = guess[d][min(max(row + i, 0), height - 1)][min(max(column + j, 0), width - 1)]
                out.append(near - centre)
    before = [(-i, j) for i in (1, 2, 3) for j in range(-3, 4)] + [(0, -1), (0, -2), (0, -3)]
    for d in range(channels):
        out += [off.get((d, row + i, column + j), 0) for i, j in before]
    out += [off[d, row, column] for d in range(c)]
    out += [256 * flag for flag in (row > 0, column > 0, row > 1, column < width - 1, column > 1)]
    return [*out, centre - 2048]


def act(totals: list[int], biases: list[int], shift: int) -> list[int]:
    return [
        min(max((total + bias + 2 ** (shift - 1)) >> shift, 0), 32767)
        for total, bias in zip(totals, biases, strict=True)
    ]


def mixture_of(layers: dict, inputs: list[int], centre: int) -> tuple[list[int], list[int], list[int]]:
    """Weights, means and scales."""
    hidden = act(product(layers["first"], inputs), layers["first_bias"], 11)
    hidden = act(product(layers["second"], hidden), layers["second_bias"], 12)
    parts = zip(product(layers["last"], hidden), product(layers["skip"], inputs), layers["last_bias"], strict=True)
    out = [last + 2 * skip + bias for last, skip, bias in parts]
    third = len(out) // 3
    logits = [(value + 2**13) >> 14 for value in out[:third]]
    means = [((value + 2**12) >> 13) + centre for value in out[third : 2 * third]]
    scales = [min(max((value + 2**15) >> 16, -32), 88) for value in out[2 * third :]]
    return weights_of(logits), means, scales


def read_pixels(model: Linear, guess: Guesses, data: bytes, coded: int) -> Pixels:
    """The image (coded, H, W)."""
    height, width = len(guess[0]), len(guess[0][0])
    image, coder = np.zeros((coded, height, width), np.uint8), RangeDecoder(data)
    off: dict[tuple[int, int, int], int] = {}
    for line in lines(height, width):
        for c in range(coded):
            for row, column in line:
                inputs = inputs_of(guess, off, c, row, column)
                mixture = mixture_of(model.side["causal"][c], inputs, guess[c][row][column])
                target, level = coder.target(), 0
                while frequency(level + 1, *mixture) <= target:
                    level += 1
                coder.take(frequency(level, *mixture), frequency(level + 1, *mixture))
                image[c, row, column] = level
                for d in [c] if coded > 1 else range(len(guess)):
                    off[d, row, column] = 16 * level - guess[d][row][column]
    return image


# ---- files ----------------------------------------------------------------------------------------------------------


def decode(folder: str | Path, data: bytes) -> Pixels:
    """The image (C, H, W) in a file or in any prefix of one that holds its header."""
    model, reader = open_model(Path(folder)), Reader(data)
    head = read_head(reader)
    if head.fingerprint.hex() != model.side["own_sha256"][:8]:
        raise Refused("another model")
    if head.flags & STORED:
        raise NotImplementedError("PNGs are read by others")
    channels, high, wide = model.shape
    if head.flags & GREY and channels == 1:
        raise Refused("grey on grey")
    down, across = -(-head.height // high), -(-head.width // wide)
    tiles, costs = down * across, model.side["bits"]
    whole = tiles * len(costs)
    units = whole if head.units is None else head.units
    if units > whole or any(tile >= tiles for tile in head.seeds):
        raise Refused("numbers that do not fit the model")

    schedule = [(step, tile) for step in range(len(costs)) for tile in range(tiles)][:units]
    count = sum(costs[step] for step, _ in schedule)
    length = -(-count // 8)
    body = reader.data[reader.at : reader.at + length]
    bits = [byte >> (7 - place) & 1 for byte in body for place in range(8)]
    if any(bits[count:]):
        raise Refused("bits behind the last")
    taken: list[list[list[int]]] = [[] for _ in range(tiles)]
    at = 0
    for step, tile in schedule:
        if at + costs[step] > len(bits[:count]):
            break
        taken[tile].append(bits[at : at + costs[step]])
        at += costs[step]

    residual = check = None
    try:
        reader.take(length)
        if int.from_bytes(reader.take(2), "little") != crc16(body):
            raise Refused("checksum of the progressive layer")
        if head.flags & LOSSLESS:
            size, check = reader.varint(), reader.take(4)
            residual = reader.take(size)
        if reader.at < len(data):
            raise Refused("bytes after the end")
    except Ended:
        pass

    coded = 1 if head.flags & GREY else channels
    sheet = np.full((channels, down * high, across * wide), np.nan)
    for tile, have in enumerate(taken):
        if have:
            x = walk(model, have, tile, head.seeds.get(tile, 0))
            top, left = tile // across * high, tile % across * wide
            sheet[:, top : top + high, left : left + wide] = clean(model, x, model.side["levels"][len(have)])
    seen = sheet[:, : head.height, : head.width]
    if residual is not None:
        guess = np.rint(16 * (seen + 1) * 127.5).astype(int).tolist()
        image = read_pixels(model, guess, residual, coded)
        if crc32(image) != check:
            raise Refused("checksum of the pixels")
        return image
    shown = seen.mean(axis=0, keepdims=True) if coded < channels else seen
    levels = np.clip(np.rint((shown + 1) * 127.5), 0, 255)
    return np.where(np.isnan(levels), 128, levels).astype(np.uint8)
