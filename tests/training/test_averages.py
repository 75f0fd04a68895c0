"""Averages of relative lengths: their profile, what a learner tracks, and how a run takes one up and drops it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from ddpm.data.stream import Batch
from ddpm.errors import InputError
from ddpm.model.checkpoint import MODEL_FILE, find_checkpoint, kinds_held, load_model, read_config, read_kinds
from ddpm.model.recipe import Recipe, changed, make_recipe
from ddpm.training.averages import ema_decay, length_decay, power
from ddpm.training.learner import Learner
from ddpm.training.loop import train
from ddpm.training.step_memory import peak_memory
from scorings import RECIPE, Watching, image_set, merged, pixels

pytestmark = pytest.mark.usefixtures("quick_runs")

CPU = torch.device("cpu")
LENGTHS = [0.05, 0.1, 0.25]
IMAGES = image_set(pixels(20, (1, 4, 4)))


def recipe(**changes: Any) -> Recipe:
    """Large steps, so that averages soon lie apart."""
    training = {"ema_lengths": LENGTHS, "ema_decay": 0.9}
    return make_recipe(merged(RECIPE, merged({"learning_rate": 2e-2, "training": training}, changes)))


def batch(number: int) -> Batch:
    return Batch(torch.from_numpy(pixels(8, (1, 4, 4), number)), None, 8 * number, np.arange(8))


def flat(network: nn.Module) -> torch.Tensor:
    """All weights in one row, in float64."""
    return torch.cat([w.detach().double().reshape(-1) for w in network.parameters()])


# ---- the profile ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0.001, 0.01, 0.05, 0.1, 0.2, 0.25, 0.288, 0.3])
def test_the_profile_of_an_average_has_the_length_that_was_asked_for(length: float):
    """The standard deviation of (p + 1) tau^p over 0..1, by the sum over a million midpoints."""
    p, tau = power(length), (np.arange(10**6) + 0.5) / 10**6
    density = (p + 1) * tau**p / 10**6
    mean = (density * tau).sum()
    assert density.sum() == pytest.approx(1, abs=1e-3)
    assert math.sqrt((density * (tau - mean) ** 2).sum()) == pytest.approx(length, rel=1e-3)


def test_the_plain_average_is_the_one_that_the_text_says_and_longer_ones_weigh_the_beginning_more():
    assert power(1 / math.sqrt(12)) == pytest.approx(0, abs=1e-6)
    assert [length_decay(1 / math.sqrt(12), n) for n in range(4)] == pytest.approx([0, 1 / 2, 2 / 3, 3 / 4])
    assert power(0.3) < 0 < power(0.288)
    assert [power(length) for length in (0.05, 0.1)] == pytest.approx([16.97, 6.94], abs=5e-3)  # as the paper has them


@pytest.mark.parametrize("length", LENGTHS)
def test_the_share_of_the_first_half_of_a_run_does_not_depend_on_how_long_it_is(length: float):
    """(1/2)^(p + 1): the product of the second half's decays."""
    shares = [math.prod(length_decay(length, k) for k in range(n // 2, n)) for n in (2, 10, 1000)]
    assert shares == pytest.approx([0.5 ** (power(length) + 1)] * 3, rel=1e-9)


# ---- what a learner tracks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masking", [(), ("cpu",)], ids=["plain", "masked by the device"])
def test_every_average_is_the_one_tracked_directly_and_the_sum_by_its_profile(
    masking: tuple, monkeypatch: pytest.MonkeyPatch
):
    """Twelve steps. The weights after step i of n weigh the profile's integral over (i - 1)/n..i/n, that is
    (i/n)^(p + 1) - ((i - 1)/n)^(p + 1); a loop in float64 does each update by its decay. The learner is in float32."""
    monkeypatch.setattr("ddpm.training.learner.MASKED", masking)
    learner, path = Learner(recipe(), CPU), []
    for n in range(12):
        learner.step(batch(n))
        path.append(flat(learner.network))
    found = {kind: flat(average) for kind, average in learner.averages.items()}
    assert list(found) == ["ema", "ema-0.05", "ema-0.1", "ema-0.25"]
    for length in LENGTHS:
        p = power(length)
        shares = np.diff((np.arange(13) / 12) ** (p + 1))
        closed = sum(share * w for share, w in zip(shares, path, strict=True))
        tracked = torch.zeros_like(path[0])
        for n, w in enumerate(path, 1):
            decay = (1 - 1 / n) ** (p + 1)
            tracked = decay * tracked + (1 - decay) * w
        assert (found[f"ema-{length}"] - closed).abs().max() < 1e-6
        assert (found[f"ema-{length}"] - tracked).abs().max() < 1e-6
    ema = path[0]
    for n, w in enumerate(path[1:], 1):
        ema = ema + (1 - ema_decay(learner.recipe, n)) * (w - ema)
    assert (found["ema"] - ema).abs().max() < 1e-6
    every = [*found.values(), path[-1]]
    apart = [(one - other).abs().max() for k, one in enumerate(every) for other in every[:k]]
    assert min(apart) > 1e-3


def test_other_averages_change_neither_weights_nor_the_main_one():
    plain, more = Learner(recipe(training={"ema_lengths": []}), CPU), Learner(recipe(), CPU)
    for n in range(3):
        plain.step(batch(n))
        more.step(batch(n))
    for kind, weights in plain.weights().items():
        assert all(torch.equal(more.weights()[kind][name], value) for name, value in weights.items())


def test_the_estimate_of_memory_counts_every_average():
    """To the block; the first estimate of a process also counts constants that PyTorch keeps from then on."""
    lengths = ([], [*LENGTHS, 0.2], [])
    _, all_four, alone = (peak_memory(recipe(training={"ema_lengths": some})) for some in lengths)
    blocks = [-(-4 * w.numel() // 512) * 512 for w in Learner(recipe(), CPU).network.parameters()]
    assert all_four - alone == 4 * sum(blocks)


@pytest.mark.parametrize(
    ("lengths", "complaint"),
    [([0.1, 0.1], "names a length twice"), ([0.31], "0.3"), ([0.0], "0.001"), ([0.1] * 5, "at most 4"),
     (["0.1"], "number"), (0.1, "list")],
)  # fmt: skip
def test_lengths_that_cannot_be_are_refused_with_the_key(lengths: Any, complaint: str):
    with pytest.raises(InputError, match=rf"training\.ema_lengths.*{complaint}"):
        recipe(training={"ema_lengths": lengths})


# ---- a run ----------------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_averages_beside_the_main_one(tmp_path: Path):
    train(recipe(train_images=48), IMAGES, tmp_path)
    folder = find_checkpoint(tmp_path)
    assert kinds_held(folder) == ["ema", "ema-0.05", "ema-0.1", "ema-0.25", "raw"]
    tensors = safetensors.torch.load_file(folder / MODEL_FILE)
    for kind, prefix in (("ema", "averaged"), ("ema-0.1", "averaged-0.1"), ("raw", "raw")):
        model = load_model(tmp_path, weights=kind, device="cpu")
        assert model.weights == kind
        assert all(torch.equal(tensors[f"{prefix}/{name}"], w) for name, w in model.network.state_dict().items())
    with pytest.raises(InputError, match=r"no ema-0\.2 weights: choose ema or ema-0\.05 or ema-0\.1 or ema-0\.25 or"):
        load_model(tmp_path, weights="ema-0.2")


def test_a_new_average_begins_as_the_main_one_and_one_that_is_left_out_is_dropped(tmp_path: Path):
    """What follows is what a learner at that checkpoint learns by the new recipe; the change is written down."""
    first, heard = recipe(train_images=24, training={"ema_lengths": [0.05, 0.1]}), Watching()
    train(first, IMAGES, tmp_path)
    held = read_kinds(find_checkpoint(tmp_path), read_config(find_checkpoint(tmp_path)))
    assert list(held) == ["ema", "raw", "ema-0.05", "ema-0.1"]
    learner = Learner(changed(first, {"training": {"ema_lengths": [0.1, 0.2]}}), CPU)
    learner.restore(held, Learner(first, CPU).state())
    for kind, like in (("ema", "ema"), ("ema-0.1", "ema-0.1"), ("ema-0.2", "ema"), ("raw", "raw")):
        assert all(torch.equal(held[like][name], w) for name, w in learner.weights()[kind].items())
    longer = changed(learner.recipe, {"train_images": 48})
    with pytest.raises(InputError, match=r"ema_lengths = \[0\.05, 0\.1\], not \[0\.1, 0\.2\]; --allow-change"):
        train(longer, IMAGES, tmp_path)
    train(longer, IMAGES, tmp_path, allow_change=True, progress=heard)
    assert kinds_held(find_checkpoint(tmp_path)) == ["ema", "ema-0.1", "ema-0.2", "raw"]
    wanted = "[0.1, 0.2] from here on, [0.05, 0.1] before; an average that is new begins as a copy of the main one."
    assert f"training.ema_lengths = {wanted}" in heard.sentences
