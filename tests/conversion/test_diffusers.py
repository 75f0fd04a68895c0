"""A converted model is the model: diffusers' own networks, training steps and sampler, against ours in float64."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler, UNet2DModel
from diffusers_nets import PAPER, SMALL, TINY, Heard, converted, exact, outputs, redrawn, saved
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddpm.base.noise import normals, stream_keys
from ddpm.base.units import images_to_x
from ddpm.conversion import convert
from ddpm.conversion.scheduler import PREDICTIONS, SCHEDULES, VARIANCES
from ddpm.conversion.weights import translated
from ddpm.data.stream import Batch
from ddpm.diffusion.objectives import simple_loss
from ddpm.diffusion.schedule import make_schedule
from ddpm.model.checkpoint import read_config
from ddpm.model.model import Model
from ddpm.model.recipe import Recipe, changed
from ddpm.samplers.ancestral import ancestral
from ddpm.training import learner as learner_module
from ddpm.training.learner import Learner
from ddpm.training.levels import draw_levels

WEIGHTS = "diffusion_pytorch_model.safetensors"
NO_ATTENTION = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
OF_ALL_KINDS: dict[str, dict[str, Any]] = {
    "the paper's levels": SMALL,
    "rectangular": TINY | {"sample_size": (8, 12)},
    "grey": TINY | {"in_channels": 1, "out_channels": 1},
    "four channels": TINY | {"in_channels": 4, "out_channels": 4},
    "classes": TINY | {"num_class_embeds": 5},
    "rectangular grey classes": TINY
    | {"sample_size": (4, 6), "in_channels": 1, "out_channels": 1, "num_class_embeds": 3},
    "odd base width": TINY | {"block_out_channels": (15, 45), "norm_num_groups": 5},
    "one group": TINY | {"norm_num_groups": 1},
    "a channel a group": TINY | {"norm_num_groups": 16},
    "narrowing": TINY
    | {"block_out_channels": (16, 64, 16), "down_block_types": ("DownBlock2D",) * 3}
    | {"up_block_types": ("UpBlock2D",) * 3},
    "one level": TINY
    | {"block_out_channels": (16,), "down_block_types": ("AttnDownBlock2D",), "up_block_types": ("AttnUpBlock2D",)},
    "six levels": TINY
    | {"block_out_channels": (8, 8, 16, 16, 32, 32), "sample_size": 32}
    | {"down_block_types": (*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D")}
    | {"up_block_types": ("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4)},
    "attention in the middle only": TINY | NO_ATTENTION,
    "attention everywhere": TINY
    | {"down_block_types": ("AttnDownBlock2D",) * 2, "up_block_types": ("AttnUpBlock2D",) * 2},
    "attention first": TINY
    | {"down_block_types": ("AttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "AttnUpBlock2D")},
    "one head by its width": TINY | {"attention_head_dim": 32},
    "one layer": TINY | {"layers_per_block": 1},
    "three layers": TINY | {"layers_per_block": 3},
    "attention's groups said": TINY | {"attn_norm_num_groups": 8, "act_fn": "swish"},
    "old names of blocks": TINY
    | {"down_block_types": ("UNetResDownBlock2D", "UNetResAttnDownBlock2D")}
    | {"up_block_types": ("UNetResAttnUpBlock2D", "UNetResUpBlock2D")},
}


def assert_same_function(theirs: UNet2DModel, ours: Model, *, batch: int = 2) -> None:
    expected, found = outputs(exact(theirs), ours, batch=batch)
    assert 0.3 < expected.std() < 3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> tuple[UNet2DModel, Model]:
    """google/ddpm-cifar10-32 with other weights, theirs in float32 and ours from it in float64."""
    folder = tmp_path_factory.mktemp("paper")
    theirs = redrawn(PAPER)
    return theirs, converted(saved(theirs, folder / "theirs", variance_type="fixed_large"), folder / "ours")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[UNet2DModel, Model]:
    """The same settings at an eighth of the width, both in float64."""
    folder = tmp_path_factory.mktemp("small")
    theirs = redrawn(SMALL)
    ours = converted(saved(theirs, folder / "theirs", variance_type="fixed_large"), folder / "ours")
    return exact(theirs), ours


# ---- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_papers_network_is_the_same_function(paper: tuple[UNet2DModel, Model]):
    theirs, ours = paper
    assert sum(tensor.numel() for tensor in ours.network.parameters()) == 35_746_307
    assert_same_function(theirs, ours)


@pytest.mark.parametrize("kind", OF_ALL_KINDS)
def test_networks_of_all_kinds_are_the_same_function(kind: str, tmp_path: Path):
    theirs = redrawn(OF_ALL_KINDS[kind])
    ours = converted(saved(theirs, tmp_path / "theirs"), tmp_path / "ours")
    assert ours.class_names == tuple(str(k) for k in range(OF_ALL_KINDS[kind].get("num_class_embeds", 0)))
    assert_same_function(theirs, ours, batch=3)


def with_old_attention_names(unet: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(unet / WEIGHTS)
    for new, name in old.items():
        state = {key.replace(f".{new}.", f".{name}."): tensor for key, tensor in state.items()}
    assert any("proj_attn" in key for key in state)
    save_file(state, unet / WEIGHTS)


def as_bin(unet: Path) -> None:
    torch.save(load_file(unet / WEIGHTS), unet / "diffusion_pytorch_model.bin")
    (unet / WEIGHTS).unlink()


def flat(unet: Path) -> None:
    """As the oldest models lie on the hub: everything in one folder."""
    for file in [*unet.iterdir(), unet.parent / "scheduler" / "scheduler_config.json"]:
        file.rename(unet.parent / file.name)
    unet.rmdir()


LAYOUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipeline": (lambda unet: None, "."),
    "the network's folder": (lambda unet: None, "unet"),
    "all in one folder": (flat, "."),
    "old names of attention": (with_old_attention_names, "."),
    "pickled tensors": (as_bin, "."),
    "EMA weights of a training checkpoint": (lambda unet: unet.rename(unet.with_name("unet_ema")), "."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_are_the_same_model(layout: str, tmp_path: Path):
    arrange, source = LAYOUTS[layout]
    theirs = redrawn(TINY)
    folder = saved(theirs, tmp_path / "theirs", num_train_timesteps=500, prediction_type="v_prediction")
    arrange(folder / "unet")
    said = Heard()
    ours = converted(folder / source, tmp_path / "ours", progress=said)
    assert (ours.recipe.process.steps, ours.recipe.objective.prediction, said.sentences) == (500, "v", [])
    assert_same_function(theirs, ours)


def test_half_precision_weights_are_read_exactly(tmp_path: Path):
    folder = saved(redrawn(TINY).half(), tmp_path / "theirs")
    theirs = UNet2DModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    assert_same_function(theirs, converted(folder, tmp_path / "ours"))


def test_size_of_a_network_that_leaves_it_open_is_the_users(tmp_path: Path):
    folder = saved(redrawn(TINY | {"sample_size": None}), tmp_path / "theirs")
    model = converted(folder, tmp_path / "ours", size="8x12")
    assert model.geometry.shape == (3, 8, 12)


def test_checkpoint_holds_ema_weights_and_the_default_training(tmp_path: Path):
    config = read_config(convert(saved(redrawn(TINY | {"dropout": 0.1}), tmp_path / "theirs"), tmp_path / "ours"))
    recipe = config.recipe
    assert recipe == changed(Recipe(), recipe.model_dump(include={"image", "network", "process"}))
    assert (recipe.network.dropout, recipe.network.classes, config.images_seen) == (0.1, 0, 0)
    assert str(tmp_path) not in (tmp_path / "ours" / "config.json").read_text()


# ---- the options that make it another function ----------------------------------------------------------------------

# Left at diffusers' default, these give a network of the same shapes; the middle is 1,000 times what counts as equal.
SILENT = ["freq_shift", "flip_sin_to_cos", "norm_eps", "downsample_padding", "attention_head_dim"]
SILENT_OTHERS = {"act_fn": "gelu", "center_input_sample": True, "mid_block_scale_factor": 2, "attn_norm_num_groups": 4}


@pytest.mark.parametrize("option", [*SILENT, *SILENT_OTHERS])
def test_refused_options_are_indeed_another_function(option: str):
    other = {key: value for key, value in TINY.items() if key != option}
    if option in SILENT_OTHERS:
        other[option] = SILENT_OTHERS[option]
    theirs, different = redrawn(TINY).double(), redrawn(other).double()
    different.load_state_dict(theirs.state_dict())  # every tensor fits
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        distance = (theirs(x, 500).sample - different(x, 500).sample).abs().max()
    assert distance > 1e-7


# ---- training -------------------------------------------------------------------------------------------------------


RATE, STEPS = 2e-4, 5


def weights_of(theirs: UNet2DModel, ours: Model) -> dict[str, Tensor]:
    return translated({k: v.detach() for k, v in theirs.state_dict().items()}, ours.network.state_dict(), Path())


def assert_same_weights(found: dict[str, Tensor], theirs: UNet2DModel, ours: Model) -> None:
    """After all steps; every tensor has moved by something like the rate a step."""
    expected, start = weights_of(theirs, ours), ours.network.state_dict()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-9)
    moved = [float((tensor - start[name]).abs().max()) for name, tensor in found.items() if "key.bias" not in name]
    assert min(moved) > RATE  # softmax does not see a bias of the keys
    assert max(moved) < 2 * STEPS * RATE


def descend(theirs: UNet2DModel, optimiser: torch.optim.Optimizer, x0: Tensor, t: Tensor, noise: Tensor) -> None:
    """One step of Algorithm 1, written out; t counts from 1."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t - 1].reshape(-1, 1, 1, 1)
    xt = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    optimiser.zero_grad()
    ((noise - theirs(xt, t - 1).sample) ** 2).mean().backward()
    optimiser.step()


def test_five_steps_of_adam_give_the_same_weights(small: tuple[UNet2DModel, Model]):
    theirs, ours = copy.deepcopy(small[0]), small[1]
    network = copy.deepcopy(ours.network).requires_grad_(True)
    denoiser = replace(ours.denoiser, network=network)
    theirs_adam, ours_adam = (torch.optim.Adam(net.parameters(), lr=RATE) for net in (theirs, network))
    random = torch.Generator().manual_seed(3)
    for _ in range(STEPS):
        x0, noise = (torch.randn(4, 3, 16, 16, generator=random, dtype=torch.float64) for _ in range(2))
        t = torch.randint(1, 1001, (4,), generator=random)
        descend(theirs, theirs_adam, x0.clamp(-1, 1), t, noise)
        ours_adam.zero_grad()
        simple_loss(denoiser, x0.clamp(-1, 1), t, noise=noise).mean().backward()
        ours_adam.step()
    assert_same_weights(network.state_dict(), theirs, ours)


def test_five_steps_of_the_learner_give_the_same_weights(
    small: tuple[UNet2DModel, Model], monkeypatch: pytest.MonkeyPatch
):
    """The learner as it is, but for float64 images; warm-up off, and a clipping that never bites."""
    theirs, ours = copy.deepcopy(small[0]), small[1]
    recipe = changed(ours.recipe, {"learning_rate": RATE, "training": {"warmup_images": 0, "clip_norm": 1e9}})
    monkeypatch.setattr(learner_module, "images_to_x", functools.partial(images_to_x, dtype=torch.float64))
    learner = Learner(recipe, torch.device("cpu"))
    for network in (learner.network, learner.ema):
        network.double().load_state_dict(ours.network.state_dict())
    learner.denoiser = replace(learner.denoiser, dtype=torch.float64)
    adam = torch.optim.Adam(theirs.parameters(), lr=RATE)
    for step in range(STEPS):
        images = torch.from_numpy(np.random.default_rng(step).integers(0, 256, (4, 3, 16, 16), np.uint8))
        seen = learner.images_seen
        numbers = torch.arange(seen, seen + 4)
        t, weights = draw_levels(stream_keys("level", recipe.seed, numbers), 1000)
        assert weights.tolist() == [1] * 4
        noise = normals(stream_keys("noise", recipe.seed, numbers), images.shape[1:])
        learner.step(Batch(images, None, seen, np.arange(4)))
        descend(theirs, adam, images.double() / 127.5 - 1, t, noise.double())
    assert_same_weights(learner.network.state_dict(), theirs, ours)


# ---- the process and the sampler ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1000, 50])
def test_schedules_are_the_same_process(schedule: str, steps: int):
    theirs = DDPMScheduler(beta_schedule=schedule, num_train_timesteps=steps)
    ours = make_schedule(SCHEDULES[schedule], steps=steps)
    expected = theirs.alphas_cumprod.double().numpy()
    np.testing.assert_allclose(ours.alpha_bar[1:], expected, rtol=1e-4, atol=0)  # theirs is a float32 product
    np.testing.assert_allclose(ours.beta[1:], theirs.betas.double().numpy(), rtol=1e-6, atol=0)


def ten_steps_of_theirs(network: UNet2DModel, scheduler: DDPMScheduler, x: Tensor, first: int) -> Tensor:
    """From time `first`, counted from 0."""
    random = torch.Generator().manual_seed(first)
    for time in range(first, first - 10, -1):
        x = scheduler.step(network(x, time).sample, time, x, generator=random).prev_sample
    return x


def ten_steps_of_ours(model: Model, x: Tensor, first: int) -> Tensor:
    """From level first + 1 of the full process, by our own sampler, on the same draws."""
    random = torch.Generator().manual_seed(first)
    denoiser = model.denoiser
    chain = denoiser.process.schedule.subset(range(1, first + 2))
    states = ancestral(
        denoiser, x, chain=chain, noise=lambda level: torch.randn(x.shape, generator=random, dtype=x.dtype)
    )
    state = list(itertools.islice(states, 10))[-1]
    assert state.level == first - 9
    return state.x


@torch.no_grad()
def distance_after_ten_steps(theirs: UNet2DModel, scheduler: DDPMScheduler, ours: Model, first: int) -> Tensor:
    """Theirs less ours, (2, C, H, W), both in float64 from the same noise."""
    random = torch.Generator().manual_seed(4)
    x = torch.randn(2, *ours.geometry.shape, generator=random, dtype=torch.float64)
    return ten_steps_of_theirs(theirs, scheduler, x, first) - ten_steps_of_ours(ours, x, first)


def in_float64(scheduler: DDPMScheduler) -> DDPMScheduler:
    """The same scheduler on tables in float64, from the formulas of its documentation."""
    config = scheduler.config
    straight = functools.partial(torch.linspace, steps=config.num_train_timesteps, dtype=torch.float64)
    if config.beta_schedule == "linear":
        beta = straight(config.beta_start, config.beta_end)
    elif config.beta_schedule == "scaled_linear":
        beta = straight(config.beta_start**0.5, config.beta_end**0.5) ** 2
    else:
        curve = [math.cos((k / config.num_train_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(1001)]
        beta = torch.tensor([min(1 - b / a, 0.999) for a, b in itertools.pairwise(curve)], dtype=torch.float64)
    scheduler.alphas_cumprod, scheduler.one = torch.cumprod(1 - beta, 0), torch.ones((), dtype=torch.float64)
    return scheduler


FIRST_TIMES = [999, 11]  # ten steps each: at 999-990 and at 11-2


@pytest.mark.parametrize("first", FIRST_TIMES)
@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_ten_steps_of_the_sampler_are_the_same(variance: str, first: int, small: tuple[UNet2DModel, Model]):
    """Within what its float32 tables cost: at 11-2 its beta = 1 - A_t / A_{t-1} is off by up to 5e-4 of itself.

    That is 7e-5 of root mean square over the image and 1.1e-4 at the worst pixel; on float64 tables nothing is left.
    """
    theirs, ours = small
    ours = replace(ours, recipe=changed(ours.recipe, {"process": {"variance": VARIANCES[variance]}}))
    scheduler = DDPMScheduler(variance_type=variance)
    assert distance_after_ten_steps(theirs, scheduler, ours, first).square().mean().sqrt() < 1e-4
    assert distance_after_ten_steps(theirs, in_float64(scheduler), ours, first).abs().max() < 1e-10


# diffusers' own DDPM step takes the root of fixed_large_log's logarithm and gives no numbers; its meaning is plain.
OPTIONS = list(itertools.product(SCHEDULES, PREDICTIONS, [name for name in VARIANCES if name != "fixed_large_log"]))
SQUARE = [k for k in range(27) if (k // 9 + k // 3 + k) % 3 == 0]  # a Latin square: every two of the three


@pytest.mark.parametrize(
    ("schedule", "prediction", "variance"),
    [pytest.param(*one, marks=() if k in SQUARE else pytest.mark.slow) for k, one in enumerate(OPTIONS)],
)
def test_ten_steps_under_every_scheduler_option_are_the_same(
    schedule: str, prediction: str, variance: str, tmp_path: Path
):
    options = {"beta_schedule": schedule, "prediction_type": prediction, "variance_type": variance}
    theirs = redrawn(TINY)
    ours = converted(saved(theirs, tmp_path / "theirs", **options), tmp_path / "ours")
    for first in FIRST_TIMES:
        scheduler = in_float64(DDPMScheduler(**options))
        assert distance_after_ten_steps(exact(theirs), scheduler, ours, first).abs().max() < 1e-10


@pytest.mark.parametrize("kind", [DDIMScheduler, PNDMScheduler])
def test_other_schedulers_give_their_process_and_say_so(kind: type, tmp_path: Path):
    folder = saved(redrawn(TINY), tmp_path / "theirs")
    kind(num_train_timesteps=200, beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    said = Heard()
    process = converted(folder, tmp_path / "ours", progress=said).recipe.process
    assert (process.schedule, process.steps, process.variance) == ("quad", 200, "small")
    assert kind.__name__ in said.sentences[0]


def test_network_without_scheduler_takes_the_papers_process_and_says_so(tmp_path: Path):
    redrawn(TINY).save_pretrained(tmp_path / "unet")
    said = Heard()
    model = converted(tmp_path / "unet", tmp_path / "ours", progress=said)
    assert (model.recipe.process, model.recipe.objective) == (Recipe().process, Recipe().objective)
    assert "paper's process" in said.sentences[0]
