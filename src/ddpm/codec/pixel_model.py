"""The lossless layer's model of pixels: a small network that sees the chain's last image and all pixels before.

Ho et al. 2020 leave "a more powerful decoder like a conditional autoregressive model" to future work (sec. 3.3); this
is one. Pixels come in the order of slanted lines, so that a whole line is computed at once: line number 4 row + column,
from the top row down within a line, channel after channel. What is known of a pixel is the guess (the chain's last
clean image, in sixteenths of a grey level) around it, and by how much the guess was off at the neighbours that came
before and in the earlier channels here.

Every number is an integer and every product exact: they are carried in float64 matrices, whose sums stay far below
2^53, so that order of summation, instruction set and threads cannot matter.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm.base.tensors import Floats, Integers, Pixels
from ddpm.base.units import LEVELS
from ddpm.codec.mixture import SIXTEENTHS, Mixture
from ddpm.codec.range_coder import Decoder, Encoder

Small = NDArray[np.int32]

REACH = 3
"""Neighbours are up to so many rows above and columns aside; a line must then climb 4 rows per column."""
SLANT = REACH + 1
BEFORE = [(-up, aside) for up in range(1, REACH + 1) for aside in range(-REACH, REACH + 1)] + [
    (0, -left) for left in range(1, REACH + 1)
]
AROUND = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
FLAG = 256
COARSE = 16
STEPS, BETWEEN = np.arange(0, LEVELS + 1, COARSE)[None], np.arange(COARSE + 1)[None]
"""Grey levels among which a pixel is looked for first, and from one of them to the next."""
INPUT_BITS, HIDDEN_BITS, WEIGHT_BITS = 7, 8, 12
"""Inputs count 1/128, hidden units 1/256, weights 1/4096 of what they stand for."""
LARGEST_HIDDEN = 2**15 - 1
LARGEST_WEIGHT, LARGEST_BIAS = 2**15 - 1, 2**40
OUTPUT_BITS = HIDDEN_BITS + WEIGHT_BITS
LOGIT_SHIFT, MEAN_SHIFT, SCALE_SHIFT = OUTPUT_BITS - 6, OUTPUT_BITS - 7, OUTPUT_BITS - 4
"""From outputs to 1/64 nat, to sixteenths of a grey level (an output of 1 is 8 levels), to sixteenths of a nat."""


@dataclass(frozen=True, eq=False)
class Layers:
    """The network of one channel, all integers: outputs = last @ relu(second @ relu(first @ inputs)) + skip @ inputs.

    Weights count 1/4096; biases are in the units of the sums they are added to.
    """

    first: Floats
    first_bias: Floats
    second: Floats
    second_bias: Floats
    last: Floats
    last_bias: Floats
    skip: Floats

    def __call__(self, inputs: Floats) -> Floats:
        """(P, F) -> (P, 3 K) in units of 2^-20."""
        hidden = _active(inputs @ self.first.T + self.first_bias, INPUT_BITS + WEIGHT_BITS - HIDDEN_BITS)
        hidden = _active(hidden @ self.second.T + self.second_bias, WEIGHT_BITS)
        scaled = 2.0 ** (OUTPUT_BITS - INPUT_BITS - WEIGHT_BITS)
        return np.asarray(hidden @ self.last.T + (inputs @ self.skip.T) * scaled + self.last_bias)


def _active(total: Floats, shift: int) -> Floats:
    return np.asarray(np.clip(np.floor((total + 2.0 ** (shift - 1)) / 2.0**shift), 0, LARGEST_HIDDEN))


@dataclass(frozen=True, eq=False)
class Canvas:
    """Images in the making, padded so that neighbours can be read anywhere: (B, C, H + 6, W + 6) of int32.

    guess  edges repeated; off is how much pixels lie above their guess, 0 where unknown or outside
    """

    guess: Small
    off: Small
    size: tuple[int, int]

    @staticmethod
    def of(guess: Integers, pixels: Pixels | None = None) -> Canvas:
        """One for guesses (B, C, H, W) in sixteenths of a grey level.

        pixels  (B, C, H, W) if all are known already, or (B, 1, H, W) if all channels are equal; None: none is known
        """
        around = ((0, 0), (0, 0), (REACH, REACH), (REACH, REACH))
        padded = np.pad(guess.astype(np.int32), around, mode="edge")
        off = np.zeros_like(padded)
        if pixels is not None:
            inside = np.s_[:, :, REACH:-REACH, REACH:-REACH]
            off[inside] = pixels * np.int32(SIXTEENTHS) - padded[inside]
        return Canvas(padded, off, (guess.shape[2], guess.shape[3]))

    def put(self, channel: int, images: Integers, rows: Integers, columns: Integers, pixels: Integers) -> None:
        """Note pixels (P,) that became known."""
        place = (images, channel, rows + REACH, columns + REACH)
        self.off[place] = pixels * SIXTEENTHS - self.guess[place]

    def centre(self, channel: int, images: Integers, rows: Integers, columns: Integers) -> Integers:
        """The guesses of some pixels, (P,)."""
        return np.asarray(self.guess[images, channel, rows + REACH, columns + REACH])

    def inputs(self, channel: int, images: Integers, rows: Integers, columns: Integers) -> Floats:
        """What is known of some pixels of one channel, (P, F): see `width`."""
        stride, across = self.guess.shape[3], self.size[1]
        guess, off = (table.reshape(*table.shape[:2], -1) for table in (self.guess, self.off))
        here = (rows + REACH) * stride + columns + REACH
        around = here[:, None] + np.array([down * stride + right for down, right in AROUND])
        before = here[:, None] + np.array([down * stride + right for down, right in BEFORE])
        every, batch = np.arange(guess.shape[1])[:, None], images[:, None, None]
        centre = guess[images, channel, here]
        flags = np.stack([rows > 0, columns > 0, rows > 1, columns < across - 1, columns > 1], axis=1)
        parts = [
            (guess[batch, every, around[:, None]] - centre[:, None, None]).reshape(len(rows), -1),
            off[batch, every, before[:, None]].reshape(len(rows), -1),
            off[images[:, None], np.arange(channel), here[:, None]],
            flags * FLAG,
            (centre - LEVELS // 2 * SIXTEENTHS)[:, None],
        ]
        return np.concatenate(parts, axis=1).astype(np.float64)


def width(channels: int, channel: int) -> int:
    """Inputs of the network of one channel: guesses 5 x 5, misses at the neighbours before and in the earlier channels
    here, flags of the border, the guess itself."""
    return channels * (len(AROUND) + len(BEFORE)) + channel + 6


@functools.lru_cache(maxsize=2)
def lines(height: int, width: int) -> tuple[tuple[Integers, Integers], ...]:
    """Rows and columns of the pixels of every line, in the order in which they are coded."""
    row, column = np.divmod(np.arange(height * width), width)
    number = SLANT * row + column
    order = np.lexsort((row, number))
    cuts = np.flatnonzero(np.diff(number[order])) + 1
    return tuple((row[part], column[part]) for part in np.split(order, cuts))


@dataclass(frozen=True, eq=False)
class CausalModel:
    """A network for each channel."""

    layers: tuple[Layers, ...]

    def mixture(self, canvas: Canvas, channel: int, images: Integers, rows: Integers, columns: Integers) -> Mixture:
        """The distributions of some pixels."""
        said = self.layers[channel](canvas.inputs(channel, images, rows, columns))
        logits, means, scales = (
            np.floor(part / 2.0**shift + 0.5).astype(np.int64)
            for part, shift in zip(np.split(said, 3, axis=1), (LOGIT_SHIFT, MEAN_SHIFT, SCALE_SHIFT), strict=True)
        )
        return Mixture(logits, means + canvas.centre(channel, images, rows, columns)[:, None], scales)

    def encode(self, guess: Integers, pixels: Pixels) -> tuple[list[bytes], Floats]:
        """Code images given guesses.

        guess    (B, C, H, W) in sixteenths of a grey level, 0 to 4080
        pixels   (B, c, H, W) with c = C, or c = 1 of a grey image
        returns  each image's bytes, and the ideal code length of each in bits (B,)
        """
        batch, coded, *size = pixels.shape
        canvas, ends = Canvas.of(guess, pixels), np.empty((2, *pixels.shape), np.int64)
        total = batch * size[0] * size[1]
        for part in np.array_split(np.arange(total), -(-total // 8192)):
            image, row, column = np.unravel_index(part, (batch, *size))
            for channel in range(coded):
                level = pixels[image, channel, row, column].astype(np.int64)
                ends[:, image, channel, row, column] = (
                    self.mixture(canvas, channel, image, row, column).cumulative(level[:, None] + np.arange(2)).T
                )
        sizes = ends[1] - ends[0]
        ideal = 24 * sizes[0].size - np.log2(sizes).sum(axis=(1, 2, 3))
        return [_write(ends[0, b], sizes[b]) for b in range(batch)], ideal

    def decode(self, guess: Integers, data: list[bytes], coded: int) -> Pixels:
        """Pixels (B, coded, H, W) from the bytes of each image; any bytes give some."""
        batch, _, height, across = guess.shape
        canvas, coders = Canvas.of(guess), [Decoder(one) for one in data]
        pixels = np.zeros((batch, coded, height, across), np.uint8)
        for rows, columns in lines(height, across):
            image = np.repeat(np.arange(batch), len(rows))
            row, column = np.tile(rows, batch), np.tile(columns, batch)
            for channel in range(coded):
                found = _read(coders, self.mixture(canvas, channel, image, row, column), len(rows))
                pixels[image, channel, row, column] = found
                for other in range(channel, guess.shape[1], coded):
                    canvas.put(other, image, row, column, found)
        return pixels


def _read(coders: list[Decoder], mixture: Mixture, count: int) -> Integers:
    """The grey levels of `count` pixels of each image (B count,): first among every sixteenth, then between two."""
    coarse = mixture.cumulative(STEPS)
    found = np.empty((len(coders), count), np.int64)
    for k in range(count):
        rows, targets = slice(k, None, count), np.array([coder.target() for coder in coders])[:, None]
        levels = (np.add.reduce(coarse[rows] <= targets, 1, keepdims=True) - 1) * COARSE + BETWEEN
        ends = mixture.cumulative(levels, rows)
        inside = np.add.reduce(ends <= targets, 1) - 1
        found[:, k] = levels[:, 0] + inside
        for coder, mine, i in zip(coders, ends.tolist(), inside.tolist(), strict=True):
            coder.take(mine[i], mine[i + 1] - mine[i])
    return found.ravel()


def _write(starts: Integers, sizes: Integers) -> bytes:
    """All symbols of one image (c, H, W), in the order of the lines."""
    coder = Encoder()
    for rows, columns in lines(*starts.shape[1:]):
        for channel in range(len(starts)):
            pairs = np.stack([starts[channel, rows, columns], sizes[channel, rows, columns]], axis=1)
            for start, size in pairs.tolist():
                coder.encode(start, size)
    return coder.finish()
