"""From seeds to images: one seed an image, the same image in any batch, and noise that is normal."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.base.geometry import Geometry
from ddpm.base.noise import NOISE_VERSION, normals, stream_keys
from ddpm.base.units import x_to_images
from ddpm.diffusion.denoiser import Denoiser, Guided, Network
from ddpm.diffusion.process import PREDICTIONS, Process
from ddpm.diffusion.schedule import VARIANCES, make_schedule
from ddpm.generation.draw import draw_progressively, labels_for, plan_for
from ddpm.model.model import Model
from ddpm.model.recipe import make_recipe, resolve
from ddpm.networks.linear import LinearDenoiser
from ddpm.networks.unet import UNet
from ddpm.samplers import trajectory as module
from ddpm.samplers.base import State
from ddpm.samplers.plan import SAMPLERS, Sampling, plan
from ddpm.samplers.spacing import spaced
from ddpm.samplers.trajectory import noise_along, trajectory
from devices import OnCpu
from scorings import drawn

CPU = torch.device("cpu")
GEOMETRY = Geometry(2, 4, 6)
EVERY_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS)


def walk(seeds, sampling: Sampling, network=lambda x, time, labels: 0.3 * x, geometry=GEOMETRY, **options):
    denoiser = Denoiser(network, Process(make_schedule()), **options)
    return list(trajectory(denoiser, geometry, seeds, plan(sampling, make_schedule()), device=CPU))


def redrawn(network: UNet) -> UNet:
    """Weights that make all of the network speak: deviation 1 / sqrt(fan in), gains near 1 and biases near 0."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            is_gain = "norm" in name and name.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + is_gain)
    return network.eval()


def real_network() -> UNet:
    return redrawn(UNet(2, 2, channels=16, multipliers=(1, 2), blocks=1, attention_levels=(1,), groups=8))


def learned(prediction: str, steps: int) -> Callable[..., Tensor]:
    """A network as training leaves it. A mean is close to x_t: one that were not would make the chain chaotic."""
    network, a = real_network(), np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, steps))])
    if prediction != "mean":
        return network
    c1 = torch.from_numpy(np.sqrt(a[:-1]) * (1 - a[1:] / a[:-1]) / (1 - a[1:]))
    c2 = torch.from_numpy(np.sqrt(a[1:] / a[:-1]) * (1 - a[:-1]) / (1 - a[1:]))

    def mean(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        known, noisy = (c[time].to(x.dtype).reshape(-1, 1, 1, 1) for c in (c1, c2))
        return known * torch.tanh(network(x, time, labels)) + noisy * x

    return mean


# A few of all ways to walk, each sampler and prediction once; the others are slow.
WAYS = [
    ("ancestral", "mean", "all"),
    ("ddim", "v", "strided"),
    ("heun", "eps", "strided"),
    ("dpm++", "x0", "all"),
    ("dpm++sde", "eps", "all"),
    ("unipc", "v", "strided"),
]
EVERY_WAY = [
    way if way in WAYS else pytest.param(*way, marks=pytest.mark.slow)
    for way in itertools.product(SAMPLERS, PREDICTIONS, ("all", "strided"))
]


# ---- one seed an image ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "prediction", "levels"), EVERY_WAY)
def test_a_seed_is_the_same_image_alone_or_among_sixty_four(sampler: str, prediction: str, levels: str):
    """float32 sums differ with the batch: states within 1e-4, at most one grey level in at most 0.5 % of the pixels."""
    steps, geometry = (25 if levels == "all" else 1000), Geometry(2, 8, 12)
    denoiser = Denoiser(learned(prediction, steps), Process(make_schedule(steps=steps)), prediction)

    def states(seeds: list[int]) -> list[State]:
        found = plan(Sampling(sampler, 25), denoiser.process.schedule)
        return list(trajectory(denoiser, geometry, seeds, found, device=CPU))

    together = states(list(range(100, 164)))
    shown = x_to_images(together[-1].x)
    assert shown.float().std() > 20, "there is something to see"
    changed = total = 0
    for row in (0, 17, 63):
        alone = states([100 + row])
        for one, many in zip(alone, together, strict=True):
            assert (one.x[0] - many.x[row]).abs().max() <= 1e-4
        difference = (x_to_images(alone[-1].x[0]).int() - shown[row].int()).abs()
        assert difference.max() <= 1
        changed, total = changed + int(difference.sum()), total + difference.numel()
    assert changed <= 0.005 * total


@EVERY_SAMPLER
def test_images_follow_their_seeds_when_the_batch_is_reordered(sampler: str):
    """With a network that treats pixels alike in any batch this is exact; repeated seeds repeat the image."""
    sampling = Sampling(sampler, 10)
    last = {n: walk(seeds, sampling)[-1].x for n, seeds in enumerate(([5, 6, 7], [7, 5, 6], [6, 6]))}
    assert torch.equal(last[0][[2, 0, 1]], last[1])
    assert torch.equal(last[2][0], last[2][1])
    assert torch.equal(last[2][0], last[0][1])
    assert len({tuple(image.flatten().tolist()) for image in last[0]}) == 3


@EVERY_SAMPLER
def test_global_random_state_is_neither_read_nor_moved(sampler: str):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = walk([5], Sampling(sampler, 5))[-1].x
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(walk([5], Sampling(sampler, 5))[-1].x, first)


# ---- the noise of a chain -------------------------------------------------------------------------------------------


def test_noise_is_a_function_of_seed_and_level_alone():
    """A network that says x0 = 0 leaves x_s = c x_t + sigma z, from which each level's z is solved; the full chain
    and two strided ones hear the same z where they visit the same level, and start from the same x_T."""
    schedule = make_schedule()
    starts: dict[int, Tensor] = {}

    def listen(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        starts[int(time[0]) + 1] = x
        return torch.zeros_like(x)

    heard: list[dict[int, Tensor]] = []
    for steps in (None, 4, 7):
        starts.clear()
        states = walk([11, 12], Sampling("ancestral", steps), listen, prediction="x0")
        noise = {1000: starts[1000]}
        for state in states[:-1]:
            s, t = schedule.alpha_bar[state.level], schedule.alpha_bar[state.start]
            sigma = np.sqrt(1 - t / s) if state.level > 1 else None
            if sigma is not None:
                noise[state.level] = (state.x - np.sqrt(t / s) * (1 - s) / (1 - t) * starts[state.start]) / sigma
        heard.append(noise)
    full, *strided = heard
    for noise in strided:
        for level, z in noise.items():
            # sigma >= 0.02 amplifies float32's 2e-7 of a state of size 4
            assert (z - full[level]).abs().max() < 1e-4, level


def test_noise_of_a_seed_does_not_change_from_one_release_to_the_next():
    """Known values of NOISE_VERSION 2: others redraw every published sample, and need another version."""
    assert NOISE_VERSION == 2
    starts: list[Tensor] = []

    def listen(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        starts.append(x.flatten(1))
        return x

    walk([17, 17 + 2**64, 18, -1], Sampling("ddim", 2), listen, Geometry(1, 1, 3))
    known = torch.tensor([0.4383925497531891, -0.012978791259229183, -0.5376065373420715])
    torch.testing.assert_close(starts[0][0], known, rtol=0, atol=1e-6)
    assert torch.equal(starts[0][0], starts[0][1]), "seeds count modulo 2^64"
    assert len({tuple(row) for row in starts[0].tolist()}) == 3


@pytest.mark.parametrize("at_once", [1, 5 * 3 * 48, 2**20])
@pytest.mark.parametrize("spacing", ["uniform", "karras"])
def test_noise_made_for_several_levels_at_once_is_that_of_each(
    at_once: int, spacing: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "MOST_AT_ONCE", at_once)
    chain, seeds = spaced(make_schedule(), spacing, 8), [3, 10**12, -7]
    noise, numbers = noise_along(chain, seeds, GEOMETRY.shape, CPU), torch.tensor(seeds)
    levels = [1000, *chain.levels[-2:0:-1].tolist()]
    for level in [*levels, levels[3], levels[6]]:
        number = int(level) if level == int(level) else int(np.float64(level).view(np.int64))
        assert torch.equal(noise(level), normals(stream_keys("sample", 0, numbers, number), GEOMETRY.shape))


def test_noise_of_a_whole_chain_is_standard_normal_and_uncorrelated():
    """The same solved z of levels 1000 and 999..2 of one image: 4 standard errors for mean, variance, skewness,
    kurtosis, correlation of neighbours in space and of neighbours in level."""
    schedule, previous, draws = make_schedule(), {}, []

    def listen(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        previous[int(time[0]) + 1] = x.double()
        return torch.zeros_like(x)

    for state in walk([2024], Sampling(), listen, Geometry(1, 16, 16), prediction="x0"):
        if state.level >= 2:
            s, t = schedule.alpha_bar[state.level], schedule.alpha_bar[state.start]
            mean = np.sqrt(t / s) * (1 - s) / (1 - t) * previous[state.start]
            draws.append(((state.x.double() - mean) / np.sqrt(1 - t / s)).numpy().ravel())
    z = np.stack([previous[1000].numpy().ravel(), *draws])
    n = z.size
    assert n == 999 * 256
    assert abs(z.mean()) < 4 / n**0.5
    assert abs(z.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((z**3).mean()) < 4 * (15 / n) ** 0.5
    assert abs((z**4).mean() - 3) < 4 * (96 / n) ** 0.5
    assert abs((z[1:] * z[:-1]).mean()) < 4 / n**0.5
    assert abs(z @ z.T / 256 - np.diag((z**2).mean(1))).max() < 6 / 16, "no two levels share their noise"
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < 4 / n**0.5
    assert abs(np.mean(np.sort(z.ravel())[int(0.975 * n)] - 1.959964)) < 4 * (0.975 * 0.025 / n) ** 0.5 / 0.0584


META = torch.device("meta")
STEPS_OF = [
    *((sampler, {}) for sampler in SAMPLERS),
    ("ancestral", {"variance": "range"}),
    ("ancestral", {"prediction": "mean"}),
    ("ancestral", {"prediction": "v", "threshold": "dynamic"}),
    ("dpm++", {"prediction": "x0", "threshold": "none"}),
]


@pytest.mark.parametrize(("sampler", "options"), STEPS_OF)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_no_step_makes_a_tensor_on_the_cpu(sampler: str, options: dict[str, Any], guidance: float):
    """After the first steps, which bring the tables to the device: a small step costs no copy and no waiting."""
    network: Network = outputs
    if guidance != 1:
        network = Guided(outputs, guidance, no_label=3)
    denoiser = Denoiser(network, Process(make_schedule()), **options)
    labels = torch.zeros(5, dtype=torch.int64, device=META)
    found = plan(Sampling(sampler, 4), make_schedule())
    states = trajectory(denoiser, GEOMETRY, range(5), found, labels=labels, device=META)
    shapes = [next(states).x.shape, next(states).x.shape]
    with OnCpu() as mode:
        shapes += [state.x.shape for state in states]
    assert shapes == [(5, *GEOMETRY.shape)] * 4
    assert mode.seen == []


@pytest.mark.parametrize("spacing", ["uniform", "karras"])
@pytest.mark.parametrize("linear", [False, True])
def test_no_network_makes_a_tensor_on_the_cpu(spacing: str, linear: bool):
    """At whole times and at real ones."""
    schedule, network = make_schedule(), real_network()
    if linear:
        network = LinearDenoiser(GEOMETRY.shape, schedule.log_snr[1:], network)
    denoiser = Denoiser(network.to(META), Process(schedule))
    states = trajectory(denoiser, GEOMETRY, range(5), plan(Sampling("ddim", 3, spacing), schedule), device=META)
    next(states)
    with OnCpu() as mode:
        assert [state.x.shape for state in states] == [(5, *GEOMETRY.shape)] * 2
    assert mode.seen == []


@pytest.mark.parametrize(
    "made", [lambda: torch.tensor([1.0]), lambda: torch.from_numpy(np.ones(1)), lambda: torch.ones(1)]
)
def test_a_tensor_that_a_step_makes_on_the_cpu_would_be_seen(made: Callable[[], Tensor]):
    with OnCpu() as mode:
        made().to(META)
    assert (1,) in mode.seen[-1][1]


def outputs(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
    """Of a network with a spread, on the device of all its inputs."""
    assert labels is not None
    assert {x.device, time.device, labels.device} == {META}
    return torch.cat([x, x], dim=1) * (time + labels).to(x.dtype).reshape(-1, 1, 1, 1)


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", VARIANCES)
@pytest.mark.parametrize("asked", [None, *VARIANCES])
def test_the_variance_asked_for_replaces_the_models_own(own: str, asked: str | None):
    found = drawn(model(own), [1], Sampling("ancestral", 5, variance=asked))
    assert torch.equal(found, drawn(model(asked or own), [1], Sampling("ancestral", 5)))
    other = next(kind for kind in VARIANCES if kind != (asked or own))
    assert not torch.equal(found, drawn(model(other), [1], Sampling("ancestral", 5)))


# ---- a model's images ---------------------------------------------------------------------------------------------


def model(variance: str = "large", classes: int = 0) -> Model:
    table = {
        "network": {"channels": 16, "multipliers": (1, 2), "blocks": 1, "groups": 8},
        "image": {"channels": 2, "height": 8, "width": 12},
        "process": {"variance": variance},
    }
    recipe = resolve(make_recipe(table), Geometry(2, 8, 12), classes)
    network = redrawn(UNet(2, 2, channels=16, multipliers=(1, 2), blocks=1, attention_levels=(0,), groups=8,
                           classes=classes or None))  # fmt: skip
    return Model(recipe, network, tuple("abc"[:classes]), 0, "ema", "here")


def test_a_model_draws_the_same_images_in_batches_of_any_size():
    seeds, sampling = list(range(7)), Sampling(steps=20)
    at_once, in_pieces = (drawn(model(), seeds, sampling, batch_size=size) for size in (7, 3))
    assert at_once.dtype == torch.uint8
    assert at_once.shape == (7, 2, 8, 12)
    difference = (at_once.int() - in_pieces.int()).abs()
    assert difference.max() <= 1
    assert difference.sum() <= 0.005 * difference.numel()


def test_the_class_of_a_image_is_drawn_from_its_seed_and_changes_it():
    conditional, sampling = model(classes=3), Sampling(steps=10)
    labels = labels_for(conditional, range(300))
    assert torch.equal(labels, torch.cat([labels_for(conditional, [seed]) for seed in range(300)]))
    assert torch.bincount(labels, minlength=3).min() > 60  # 100 expected, standard deviation 8.2
    found = drawn(conditional, [0, 1, 2], sampling)
    for row in range(3):
        own = "abc"[labels[row]]
        named = drawn(conditional, [0, 1, 2], Sampling(steps=10, class_name=own))
        assert (named[row].int() - found[row].int()).abs().max() <= 1
        other = drawn(conditional, [row], Sampling(steps=10, class_name="abc"[(labels[row] + 1) % 3]))
        assert (other[0].int() - found[row].int()).abs().max() > 1


def test_drawing_progressively_ends_with_the_image_itself():
    sampling = Sampling("ancestral", 100)
    slots = draw_progressively(model(), [3, 4], plan_for(model(), sampling), slots=10)
    assert slots.shape == (2, 10, 2, 8, 12)
    assert torch.equal(slots[:, -1], drawn(model(), [3, 4], sampling))
