"""The learner's bookkeeping: rates, clipping, the EMA, randomness, and going on as if never stopped (check 22)."""

from __future__ import annotations

import copy
import io
import itertools
import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddpm.base.geometry import Geometry
from ddpm.base.noise import normals, stream_keys
from ddpm.base.units import images_to_x
from ddpm.data.stream import Batch
from ddpm.diffusion.denoiser import LEARNED
from ddpm.diffusion.objectives import LEVEL_SAMPLING, LOSSES, bound_loss
from ddpm.diffusion.schedule import VARIANCES
from ddpm.model.recipe import Recipe, load_recipe, resolve
from ddpm.training.averages import ema_decay, follow
from ddpm.training.learner import Learner
from ddpm.training.levels import REMEMBERED, draw_levels

CPU = torch.device("cpu")
SMALL = {
    "batch_size": 4,
    "image": {"channels": 1, "height": 4, "width": 6},
    "network": {
        "channels": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "groups": 4,
        "dropout": 0.2,
        "attention_levels": [1],
    },
    "training": {"warmup_images": 8},
}


def small(**changes) -> Recipe:
    """The paper's recipe with a small network on small images, its warm-up two batches long."""
    table = {key: (SMALL.get(key, {}) | value if isinstance(value, dict) else value) for key, value in changes.items()}
    return resolve(load_recipe("cifar10", SMALL | table), Geometry(1, 4, 6), table.get("network", {}).get("classes", 0))


def batch(number: int, size: int = 4, classes: int = 0) -> Batch:
    rng = np.random.default_rng(number)
    levels = torch.from_numpy(rng.integers(0, 256, (size, 1, 4, 6), np.uint8))
    labels = torch.from_numpy(rng.integers(0, classes, size)) if classes else None
    return Batch(levels, labels, number * size, np.arange(size))


def speaking(learner: Learner, scale: float = 1.0) -> Learner:
    """Redraw the weights so that gradients are large: the network starts as almost zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)
    return learner


def watched(learner: Learner) -> list[tuple[list[Tensor], list[Tensor], float]]:
    """(gradients as backward left them, gradients as the optimiser got them, rate) of each step from now on."""
    seen: list[tuple[list[Tensor], list[Tensor], float]] = []
    raw: dict[nn.Parameter, Tensor] = {}
    parameters = list(learner.network.parameters())
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(lambda p: raw.__setitem__(p, p.grad.clone()))

    def note(optimiser: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        used = [p.grad.clone() for p in parameters]
        seen.append(([raw[p] for p in parameters], used, optimiser.param_groups[0]["lr"]))

    learner.optimiser.register_step_pre_hook(note)
    return seen


def norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float((tensor.double() ** 2).sum()) for tensor in tensors))


def weights_of(learner: Learner) -> dict[str, Tensor]:
    return {f"{kind}.{name}": value.clone() for kind, part in learner.weights().items() for name, value in part.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- rate and gradients ---------------------------------------------------------------------------------------------


def test_each_step_is_taken_at_the_rate_of_the_images_seen_before_it():
    learner = Learner(small(training={"warmup_images": 16}), CPU)
    seen = watched(learner)
    for number in range(6):
        learner.step(batch(number))
    assert [rate for _, _, rate in seen] == pytest.approx([0, 5e-5, 1e-4, 1.5e-4, 2e-4, 2e-4], abs=1e-19)
    assert learner.images_seen == 24


def test_the_first_step_moves_no_weight_because_its_rate_is_zero():
    learner = Learner(small(), CPU)
    before = weights_of(learner)
    learner.step(batch(0))
    assert equal(before, weights_of(learner))
    learner.step(batch(1))
    assert not equal(before, weights_of(learner))


def test_gradients_longer_than_one_are_shortened_to_one_and_keep_their_direction():
    """PyTorch divides by norm + 1e-6; float32 norms are good to 1e-6."""
    learner = speaking(Learner(small(), CPU))
    seen = watched(learner)
    for number in range(3):
        learner.step(batch(number))
    for raw, used, _ in seen:
        assert norm(raw) > 2
        assert 1 - 1e-5 < norm(used) <= 1 + 1e-6
        for before, after in zip(raw, used, strict=True):
            assert torch.allclose(after, before / norm(raw), rtol=1e-5, atol=1e-9)


def test_gradients_shorter_than_the_limit_are_left_alone():
    learner = speaking(Learner(small(training={"clip_norm": 1e6}), CPU))
    seen = watched(learner)
    learner.step(batch(0))
    (raw, used, _), *_ = seen
    assert all(torch.equal(before, after) for before, after in zip(raw, used, strict=True))


def test_the_optimiser_is_adam_with_the_papers_constants():
    """Kingma & Ba 2015, algorithm 1, written out in float64 on the gradients that the optimiser was given.

    Six float32 steps of at most 2e-4 each: a rounding of 6e-8 times weights of size 3 each step.
    """
    learner = speaking(Learner(small(), CPU))
    parameters, seen = list(learner.network.parameters()), watched(learner)
    w = [p.detach().double().clone() for p in parameters]
    m, v = ([torch.zeros_like(x) for x in w] for _ in range(2))
    for n in range(1, 7):
        learner.step(batch(n))
        _, gradients, rate = seen[-1]
        for k, g in enumerate(gradients):
            g = g.double()
            m[k] = 0.9 * m[k] + 0.1 * g
            v[k] = 0.999 * v[k] + 0.001 * g**2
            w[k] -= rate * (m[k] / (1 - 0.9**n)) / ((v[k] / (1 - 0.999**n)).sqrt() + 1e-8)
    assert max((found - p.double()).abs().max().item() for found, p in zip(w, parameters, strict=True)) < 2e-6


# ---- the EMA --------------------------------------------------------------------------------------------------------


def ema_path(start: float, target: float, updates: int, *, decay: float = 0.9999, ramp: bool = False) -> list[float]:
    """The EMA of one float64 weight: `start` at the first step, which is copied, `target` ever after."""
    weight = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    ema = copy.deepcopy(weight)
    recipe = small(training={"ema_decay": decay, "ema_ramp": ramp})
    path = []
    with torch.no_grad():
        for n in range(updates + 1):
            weight.weight.fill_(target if n else start)
            follow(ema, weight, ema_decay(recipe, n))
            path.append(ema.weight.item())
    return path


def test_the_ema_of_a_constant_target_forgets_its_start_at_the_decay():
    path = ema_path(-3.0, 2.0, 5000)
    expected = [2 + (-3 - 2) * 0.9999**n for n in range(5001)]
    assert path == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("decay", [0.9999, 0.5])
def test_the_ramp_averages_short_runs_over_less(decay: float):
    """d_n = min(decay, (1 + n) / (10 + n)) at update n = 1, 2, ...; the start's share is their product."""
    path, share = ema_path(1.0, 0.0, 300, decay=decay, ramp=True), 1.0
    for n in range(1, 301):
        share *= min(decay, (1 + n) / (10 + n))
        assert path[n] == pytest.approx(share, rel=1e-9)


def test_after_the_first_step_the_ema_equals_the_weights_exactly():
    learner = speaking(Learner(small(training={"warmup_images": 0}), CPU))
    learner.step(batch(0))
    weights = learner.weights()
    assert equal(weights["ema"], weights["raw"])
    learner.step(batch(1))
    assert not equal(weights["ema"], weights["raw"])


@pytest.mark.parametrize("ramp", [False, True])
def test_the_ema_follows_the_weights_of_every_step(ramp: bool):
    """The recursion in float64 over the weights as they were; the learner's own runs in float32."""
    recipe = small(training={"ema_ramp": ramp, "ema_decay": 0.9, "warmup_images": 0}, learning_rate=1e-2)
    learner, expected = Learner(recipe, CPU), {}
    for n in range(8):
        learner.step(batch(n))
        d = 0.0 if n == 0 else min(0.9, (1 + n) / (10 + n)) if ramp else 0.9
        for name, value in learner.network.state_dict().items():
            expected[name] = d * expected.get(name, 0) + (1 - d) * value.double()
    found = learner.weights()["ema"]
    assert max((expected[name] - found[name]).abs().max().item() for name in found) < 1e-6


# ---- randomness -----------------------------------------------------------------------------------------------------


def test_two_learners_take_the_same_steps_bit_for_bit_and_leave_global_randomness_alone():
    """Dropout included; whatever PyTorch's and NumPy's own generators hold."""
    learners = []
    for global_seed in (1, 2):
        learner = speaking(Learner(small(), CPU))
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
        for number in range(4):
            learner.step(batch(number))
        assert torch.equal(torch.get_rng_state(), before)
        assert (np.random.get_state()[1] == numpy_before).all()
        learners.append(learner)
    assert equal(*map(weights_of, learners))
    assert learners[0].take_loss() == learners[1].take_loss()


def losses_at(seed: int, images_seen: int) -> float:
    learner = speaking(Learner(small(), CPU))
    learner.recipe = small(seed=seed)
    learner.images_seen = images_seen
    learner.step(batch(0))
    return learner.take_loss()


def test_randomness_is_a_function_of_the_seed_and_the_images_seen():
    """The same weights and images: levels, noise and dropout differ with either, and repeat with both."""
    assert losses_at(0, 40) == losses_at(0, 40)
    assert len({losses_at(0, 40), losses_at(0, 44), losses_at(1, 40), losses_at(1, 44)}) == 4


def test_dropout_differs_from_step_to_step():
    """Same weights, images, levels and noise (those of step 0), with and without dropout."""
    still, dropping = (speaking(Learner(small(network={"dropout": p}), CPU)) for p in (0.0, 0.5))
    for learner in (still, dropping):
        learner.step(batch(0))
    assert still.take_loss() != dropping.take_loss()


def test_losses_are_averaged_over_images_until_they_are_taken():
    learner = Learner(small(), CPU)
    learner.step(batch(0, size=4))
    first = learner.take_loss()
    learner.step(batch(1, size=4))
    learner.step(batch(2, size=4))
    assert len(learner.losses) == 2
    assert first == pytest.approx(1, abs=4 * (2 / 96) ** 0.5)  # near-zero start: the mean of 96 squared normals
    assert learner.take_loss() == pytest.approx(1, abs=4 * (2 / 192) ** 0.5)
    assert learner.finite()


# ---- going on -------------------------------------------------------------------------------------------------------


def saved(learner: Learner) -> dict:
    """Through torch.save and weights_only=True, as a checkpoint does."""
    file = io.BytesIO()
    torch.save({"weights": learner.weights(), "state": learner.state()}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def restored(learner: Learner) -> Learner:
    """Another learner, which must forget all it was, from what was saved of this one."""
    found, second = saved(learner), speaking(Learner(learner.recipe, CPU))
    if second.levels.history:
        second.levels.history.restore(torch.full((learner.recipe.process.steps, REMEMBERED), 7.0))
    if second.levels.uncertainty:
        second.levels.uncertainty.restore(torch.full_like(second.levels.uncertainty.table(), 7.0))
    second.restore(found["weights"], found["state"])
    return second


@pytest.mark.parametrize("classes", [0, 3])
def test_a_learner_restored_again_and_again_ends_bit_equal_to_one_that_never_stopped(classes: int):
    """Weights, EMA, optimiser, loss and count."""
    recipe = small(network={"classes": classes}, training={"ema_ramp": True})
    whole, pieces = (Learner(recipe, CPU) for _ in range(2))
    for number in range(6):
        whole.step(batch(number, classes=classes))
        if number in (0, 1, 3):
            pieces = restored(pieces)
        pieces.step(batch(number, classes=classes))
    assert equal(weights_of(whole), weights_of(pieces))
    assert_same_state(whole, pieces)


def assert_same_state(one: Learner, other: Learner) -> None:
    """All that a checkpoint holds beside the weights, bit for bit; histories have NaN at the same places."""
    ours, theirs = deepcopy(one.state()), deepcopy(other.state())
    for name in ("history", "uncertainty"):
        tables = [state.pop(name) for state in (ours, theirs)]
        if tables[0] is not None:
            np.testing.assert_array_equal(*tables)
    moments, others = ours.pop("optimiser")["state"], theirs.pop("optimiser")["state"]
    assert ours == theirs
    assert all(torch.equal(moments[k][name], others[k][name]) for k in moments for name in moments[k])


# ---- losses, variances and levels -----------------------------------------------------------------------------------

TRAINABLE = [
    (loss, variance)
    for loss, variance in itertools.product(LOSSES, (*VARIANCES, *LEARNED))
    if (loss != "simple" or variance in VARIANCES) and (loss != "hybrid" or variance in LEARNED)
]


def few_levels(loss: str = "bound", variance: str = "range", levels: str = "importance", **changes) -> Recipe:
    """Three levels, so that histories are soon full."""
    process = {"steps": 3, "beta_start": 0.02, "beta_end": 0.5, "variance": variance}
    training = {"warmup_images": 0}
    return small(process=process, objective={"loss": loss, "levels": levels}, training=training, **changes)


EVERY = [
    (pair, levels)
    for pair, levels in itertools.product(TRAINABLE, LEVEL_SAMPLING)
    if (pair[0], levels) != ("bound", "log-normal")
]
# Every two of the three.
PAIRS = [(pair, LEVEL_SAMPLING[(k + (pair[0] == "bound")) % 2]) for k, pair in enumerate(TRAINABLE)]


@pytest.mark.parametrize(
    ("pair", "levels"),
    [
        pytest.param(*one, marks=() if one in PAIRS else pytest.mark.slow, id="-".join((*one[0], one[1])))
        for one in EVERY
    ],
)
def test_every_trainable_choice_takes_steps_and_goes_on_bit_equal(pair: tuple[str, str], levels: str):
    whole = Learner(few_levels(*pair, levels), CPU)
    assert whole.network.conv_out.out_channels == (2 if pair[1] in LEARNED else 1)
    before = weights_of(whole)
    for number in range(2):
        whole.step(batch(number))
    assert not equal(before, weights_of(whole))
    second = restored(whole)
    for learner in (whole, second):
        learner.step(batch(2))
    assert learner.finite()
    assert equal(weights_of(whole), weights_of(second))
    assert_same_state(whole, second)


def test_importance_sampling_goes_on_bit_equal_before_and_after_its_history_is_full():
    """Restored before the history is full, just after that, and when it has long been."""
    recipe = few_levels()
    whole, pieces = (Learner(recipe, CPU) for _ in range(2))
    for number in range(34):
        whole.step(batch(number))
        if number in (3, 11, 30):
            assert bool(pieces.levels.history.table().isnan().any()) == (number == 3)
            pieces = restored(pieces)
        pieces.step(batch(number))
    assert equal(weights_of(whole), weights_of(pieces))
    assert_same_state(whole, pieces)
    assert not whole.levels.history.table().isnan().any()
    assert len(set(np.round(whole.levels.history.probabilities().numpy(), 6))) == 3  # it did sample unevenly


def test_a_state_from_before_there_were_histories_is_taken_up():
    learner = Learner(small(), CPU)
    learner.step(batch(0))
    found = saved(learner)
    del found["state"]["history"]
    second = Learner(small(), CPU)
    second.restore(found["weights"], found["state"])
    for each in (learner, second):
        each.step(batch(1))
    assert equal(weights_of(learner), weights_of(second))


@pytest.mark.parametrize("full", [False, True])
def test_a_step_weighs_its_losses_and_remembers_them_unweighted(full: bool):
    """Written out: levels and weights from the history, one loss an image, their weighted mean, and what is kept."""
    learner = speaking(Learner(few_levels(network={"dropout": 0.0}), CPU), 0.1)
    if full:
        learner.levels.history.restore(torch.tensor([[0.1], [1.0], [4.0]]).expand(3, REMEMBERED))
    history, images, numbers = learner.levels.history.table(), batch(0), torch.arange(4)
    t, weights = draw_levels(stream_keys("level", 0, numbers), 3, learner.levels.history.probabilities())
    assert bool((weights == 1).all()) != full
    noise = normals(stream_keys("noise", 0, numbers), (1, 4, 6))
    with torch.no_grad():
        losses = bound_loss(learner.denoiser, images_to_x(images.images), t, noise=noise)
    learner.step(images)
    assert learner.take_loss() == pytest.approx((weights * losses).mean().item(), rel=1e-6)
    for level, loss in zip(t, losses.double(), strict=True):
        history[level - 1] = torch.cat([history[level - 1][1:], loss[None]])
    np.testing.assert_allclose(learner.levels.history.table(), history, rtol=1e-6)


@pytest.mark.parametrize(("loss", "variance"), TRAINABLE)
def test_bfloat16_inside_the_network_leaves_losses_in_float32(loss: str, variance: str):
    """The bound's tables, logarithms and differences of nearly equal variances are not made for eight bits."""
    exact, short = (Learner(few_levels(loss, variance, precision=p), CPU) for p in ("float32", "bfloat16"))
    for learner in (exact, short):
        speaking(learner, 0.05).step(batch(0))
        assert learner.losses[0].dtype == torch.float32
    assert short.take_loss() == pytest.approx(exact.take_loss(), rel=0.05)
    assert short.finite()


def test_without_importance_sampling_nothing_is_remembered():
    learner = Learner(few_levels(levels="uniform"), CPU)
    learner.step(batch(0))
    assert learner.levels.history is None
    assert learner.state()["history"] is None


def test_a_saved_state_is_not_changed_by_the_steps_that_follow():
    learner = Learner(few_levels(), CPU)
    learner.step(batch(0))
    found = saved(learner)
    kept = found["state"]["history"].clone()
    second = Learner(few_levels(), CPU)
    second.restore(found["weights"], found["state"])
    learner.step(batch(1))
    np.testing.assert_array_equal(found["state"]["history"], kept)
