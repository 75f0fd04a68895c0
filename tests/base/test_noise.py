"""The counter-based generator: known answers, moments, independence of batch and split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddpm.base.noise import dropped_of, kept, mix, normals, signed, stream_keys, uniforms, words

SPLITMIX64 = {  # seed: its first words, as Vigna's and Rosetta Code's programs print them
    1234567: [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821],
    0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F],
}


@pytest.mark.parametrize("seed", SPLITMIX64)
def test_words_are_the_published_sequences(seed: int) -> None:
    known = [signed(word) for word in SPLITMIX64[seed]]
    assert words(torch.tensor([seed]), len(known))[0].tolist() == known


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30))
def test_mix_is_the_arithmetic_of_unsigned_words(numbers: list[int]) -> None:
    def plain(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    assert mix(torch.tensor([signed(z) for z in numbers])).tolist() == [signed(plain(z)) for z in numbers]


@pytest.mark.parametrize("part", [1, 7, 64])
def test_noise_does_not_depend_on_the_split(part: int) -> None:
    keys = stream_keys("noise", 3, torch.arange(64))
    whole = normals(keys, (3, 5, 7))
    assert torch.equal(whole, torch.cat([normals(some, (3, 5, 7)) for some in keys.split(part)]))
    assert torch.equal(whole[[40, 3]], normals(keys[[40, 3]], (3, 5, 7)))


def test_large_images_are_made_in_blocks_of_rows() -> None:
    keys = stream_keys("noise", 3, torch.arange(3))
    whole = normals(keys, (1, 600, 600))
    assert torch.equal(whole[1:2], normals(keys[1:2], (1, 600, 600)))


def test_normals_are_normal() -> None:
    x = normals(stream_keys("noise", 0, torch.arange(1000)), (1000,)).double()
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        spread = (x ** (2 * power)).mean().sqrt() / 1000  # a standard error, of a million numbers
        assert abs((x**power).mean() - moment) < 4 * spread, power
    edges = torch.tensor(np.linspace(-3, 3, 13))
    share = (x.flatten()[:, None] < edges).double().mean(0)
    assert (share - torch.special.ndtr(edges)).abs().max() < 4 * 0.5 / 1000


@pytest.mark.parametrize("purposes", [("noise", "noise"), ("noise", "sample")])
def test_streams_are_independent(purposes: tuple[str, str]) -> None:
    """Neighbouring image numbers, purposes, seeds and halves of a stream: correlations as of independent numbers."""
    count = 200_000
    first = normals(stream_keys(purposes[0], 0, torch.arange(2)), (count,)).double()
    other = normals(stream_keys(purposes[1], 1, torch.arange(2)), (count,)).double()
    pairs = [(first[0], first[1]), (first[0], other[0]), (first[0][: count // 2], first[0][count // 2 :])]
    for a, b in pairs:
        assert abs((a * b).mean()) < 4 / (count // 2) ** 0.5
        assert abs(((a**2 - 1) * (b**2 - 1)).mean()) < 4 * 2 / (count // 2) ** 0.5


def test_more_words_tell_streams_apart() -> None:
    numbers = torch.arange(4)
    keys = torch.cat([stream_keys("sample", 0, numbers, *more) for more in ((), (0,), (1,), (0, 1))])
    assert len(set(keys.tolist())) == 16


def test_any_integer_is_a_seed() -> None:
    for seed in (-1, 2**63, 2**200):
        assert stream_keys("noise", seed, torch.arange(2)).tolist() != stream_keys("noise", 0, torch.arange(2)).tolist()


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.999])
def test_dropout_keeps_its_share(rate: float) -> None:
    keys = stream_keys("dropout", 0, torch.arange(40))
    mask = kept(keys, (3, 50, 50), rate)
    assert mask.shape == (40, 3, 50, 50)
    assert abs(mask.double().mean() - (1 - rate)) < 4 * (rate * (1 - rate) / mask.numel()) ** 0.5 + 2**-17
    assert torch.equal(mask[5:9], kept(keys[5:9], (3, 50, 50), rate))


def test_a_compiler_is_given_other_arithmetic_for_the_same_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = stream_keys("dropout", 0, torch.arange(3))
    mask = kept(keys, (3, 5, 7), 0.4)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(kept(keys, (3, 5, 7), 0.4), mask)


def test_dropout_never_drops_all() -> None:
    assert dropped_of(1.0) == 65535
    assert kept(stream_keys("dropout", 0, torch.arange(40)), (3, 50, 50), 1.0).double().mean() < 1e-4


def test_uniforms_lie_below_one() -> None:
    u = uniforms(stream_keys("level", 0, torch.arange(100_000)))
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * 12**-0.5 / 100_000**0.5
