"""What a user may ask of sampling, what is chosen where nothing was asked, and what a model makes of it."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.base.geometry import Geometry
from ddpm.base.noise import NOISE_VERSION
from ddpm.diffusion.denoiser import REVERSE_VARIANCES, THRESHOLDS, Denoiser, Guided
from ddpm.diffusion.optimal_variance import Measured
from ddpm.diffusion.process import Process
from ddpm.diffusion.schedule import make_schedule
from ddpm.errors import InputError
from ddpm.generation.draw import draw, plan_for, protocol
from ddpm.model.model import Model
from ddpm.model.timesteps import TunedTimesteps, add_timesteps
from ddpm.model.variances import Variances, write_variances
from ddpm.samplers.plan import DEFAULT_ETA, ETA, FAST, SAMPLERS, Plan, Sampling, Tuned, plan
from ddpm.samplers.spacing import SPACINGS, spaced
from ddpm.samplers.trajectory import trajectory
from scorings import drawn, stored_model

PAPER = make_schedule()
EVERY_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS)
CHOICES = {
    "sampler": tuple(SAMPLERS),
    "spacing": (*SPACINGS, "tuned"),
    "variance": REVERSE_VARIANCES,
    "threshold": THRESHOLDS,
}
TUNED = Tuned((2.5, 30.0, 400.0, 999.25), eta=0.4)


def refusal(**options: Any) -> str:
    with pytest.raises(InputError) as caught:
        Sampling(**options)
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    return said


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "name"), [(option, name) for option, names in CHOICES.items() for name in names])
def test_a_misspelt_choice_is_answered_with_the_nearest_and_with_all_there_are(option: str, name: str):
    said = refusal(steps=8, **{option: f"{name}x"})
    assert f"{option} '{name}x' (did you mean '{name}'?)" in said
    assert ", ".join(CHOICES[option]) in said


@pytest.mark.parametrize("option", CHOICES)
def test_a_choice_that_is_near_to_none_is_answered_with_all_there_are(option: str):
    said = refusal(steps=8, **{option: "qqqq"})
    assert f"{option} 'qqqq'" in said
    assert "did you mean" not in said
    assert ", ".join(CHOICES[option]) in said


@pytest.mark.parametrize("steps", [0, -1])
def test_fewer_steps_than_one_are_refused(steps: int):
    assert "at least 1" in refusal(steps=steps)


@pytest.mark.parametrize("spacing", CHOICES["spacing"])
def test_a_spacing_without_a_number_of_steps_is_refused(spacing: str):
    said = refusal(spacing=spacing)
    assert f"'{spacing}'" in said
    assert "--steps" in said
    assert Sampling(spacing=spacing, steps=4).spacing == spacing


@pytest.mark.parametrize("variance", REVERSE_VARIANCES)
@EVERY_SAMPLER
def test_a_variance_fits_the_ancestral_sampler_alone(sampler: str, variance: str):
    if sampler == "ancestral":
        assert Sampling(sampler, 8, variance=variance).variance == variance
        return
    said = refusal(sampler=sampler, steps=8, variance=variance)
    assert f"'{sampler}'" in said
    assert "--sampler ancestral" in said


@pytest.mark.parametrize("steps", [None, 8])
@pytest.mark.parametrize("variance", REVERSE_VARIANCES)
def test_a_variance_without_a_sampler_means_the_ancestral_one(variance: str, steps: int | None):
    assert Sampling(steps=steps, variance=variance).method == "ancestral"
    assert "'ancestral' takes no eta" in refusal(steps=steps, variance=variance, eta=0.5)


@EVERY_SAMPLER
def test_an_eta_fits_samplers_whose_noise_has_a_strength_within_its_range(sampler: str):
    if sampler not in ETA:
        said = refusal(sampler=sampler, steps=8, eta=0.5)
        assert f"'{sampler}' takes no eta" in said
        assert all(name in said for name in ETA)
        return
    low, high = ETA[sampler]
    for eta in (low, high, (low + high) / 2):
        assert Sampling(sampler, 8, eta=eta).eta == eta
    for eta in (low - 1e-9, high + 1e-9, math.nan, math.inf):
        said = refusal(sampler=sampler, steps=8, eta=eta)
        assert str(eta) in said
        assert f"{low:g} to {high:g}" in said


def test_an_eta_for_the_sampler_that_is_chosen_is_judged_by_that_one():
    assert "'ancestral' takes no eta" in refusal(eta=0.5)
    assert Sampling(steps=8, eta=2.0).method == FAST
    assert "0 to 2" in refusal(steps=8, eta=2.1)


@pytest.mark.parametrize("guidance", [math.nan, math.inf, -math.inf])
def test_a_guidance_that_is_no_number_is_refused(guidance: float):
    assert "guidance" in refusal(guidance=guidance)


def test_a_precision_is_one_of_those_there_are():
    assert "float32, tf32, bfloat16" in refusal(precision="float16")


@pytest.mark.parametrize("spacing", SPACINGS)
def test_more_steps_than_levels_are_refused_by_the_plan(spacing: str):
    for named in (None, spacing):
        with pytest.raises(InputError, match="choose 1 to 1000"):
            plan(Sampling(steps=1001, spacing=named), PAPER)


# ---- what is chosen -------------------------------------------------------------------------------------------------


def test_nothing_asked_for_is_the_papers_sampler_on_all_levels():
    found = plan(Sampling(), PAPER)
    assert found.sampling.method == "ancestral"
    assert found.chain is PAPER
    assert (found.spacing, found.eta, found.calls) == ("all", None, 1000)


def test_a_number_of_steps_alone_is_the_fast_sampler_on_levels_of_equal_distance():
    found = plan(Sampling(steps=8), PAPER)
    assert (FAST, found.sampling.method) == ("dpm++sde", "dpm++sde")
    assert found.chain.levels.tolist() == [0, 125, 250, 375, 500, 625, 750, 875, 1000]
    assert (found.spacing, found.eta, found.calls) == ("uniform", 1.0, 8)


@EVERY_SAMPLER
def test_a_sampler_that_is_named_is_the_one_with_or_without_steps(sampler: str):
    found = plan(Sampling(sampler, 5), PAPER)
    assert found.sampling.method == sampler
    assert found.eta == DEFAULT_ETA.get(sampler)
    assert plan(Sampling(sampler), PAPER).chain is PAPER


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_spacing_that_is_named_is_the_one(spacing: str):
    found = plan(Sampling(steps=6, spacing=spacing), PAPER)
    assert found.spacing == spacing
    np.testing.assert_array_equal(found.chain.levels, spaced(PAPER, spacing, 6).levels)


@pytest.mark.parametrize("spacing", [None, *CHOICES["spacing"]])
@pytest.mark.parametrize("steps", [None, 4])
def test_tuned_levels_are_used_where_steps_are_given_and_no_other_spacing_is_named(
    steps: int | None, spacing: str | None
):
    if steps is None and spacing is not None:
        return  # refused above
    found = plan(Sampling("dpm++sde", steps, spacing), PAPER, TUNED)
    if steps is not None and spacing in (None, "tuned"):
        assert (found.spacing, found.eta) == ("tuned", 0.4)
        assert found.chain.levels.tolist() == [0, *TUNED.levels]
    else:
        assert (found.spacing, found.eta) == (spacing or "all", 1.0)
        assert found.chain.levels[-1] == 1000


@pytest.mark.parametrize("tuned", [0.0, 0.4, None])
@pytest.mark.parametrize("asked", [0.0, 0.9, None])
def test_an_eta_that_is_asked_for_wins_over_the_tuned_one_and_that_over_the_samplers_own(
    asked: float | None, tuned: float | None
):
    """0 is an eta as any other, also where it is the least of them; the rest stays as it was tuned."""
    found = plan(Sampling("dpm++sde", 4, eta=asked), PAPER, replace(TUNED, eta=tuned))
    assert found.eta == (asked if asked is not None else tuned if tuned is not None else DEFAULT_ETA["dpm++sde"])
    assert found.spacing == "tuned"


def gaussian(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
    return 0.3 * x + 0.1 * torch.tanh(3 * x)


def states(found: Plan, denoiser: Denoiser, labels: Tensor | None = None) -> list[Tensor]:
    device = torch.device("cpu")
    walk = trajectory(denoiser, Geometry(1, 2, 3), [7], found, labels=labels, device=device)
    return [state.x for state in walk]


@EVERY_SAMPLER
def test_the_plans_sampler_is_the_one_of_that_name_with_the_plans_eta(sampler: str):
    denoiser = Denoiser(gaussian, Process(PAPER))
    found = plan(Sampling(sampler, 4), PAPER, replace(TUNED, eta=0.4 if sampler in ETA else None))
    chosen = {} if found.eta is None else {"eta": found.eta}
    assert chosen == ({"eta": 0.4} if sampler in ETA else {})
    noise = torch.Generator().manual_seed(1)
    start = torch.randn(1, 1, 2, 3, generator=noise)
    given = {level: torch.randn(1, 1, 2, 3, generator=noise) for level in [0.0, *TUNED.levels]}
    ours, theirs = (
        list(walk(denoiser, start, chain=found.chain, noise=given.__getitem__, **more))
        for walk, more in ((found.sampler, {}), (SAMPLERS[sampler], chosen))
    )
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.x, other.x)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("steps", [1, 2, 5])
@EVERY_SAMPLER
def test_a_plan_knows_how_often_the_network_is_called(sampler: str, steps: int, guidance: float):
    """Counted: N calls an image, 2 N - 1 for Heun, with guidance twice as many."""
    asked = []

    def counting(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        asked.append(len(x))
        return gaussian(x, time)

    network = counting if guidance == 1 else Guided(counting, guidance, no_label=3)
    found = plan(Sampling(sampler, steps, guidance=guidance), PAPER)
    states(found, Denoiser(network, Process(PAPER)), labels=torch.tensor([0]))
    assert sum(asked) == found.calls
    assert found.calls == (2 * steps - 1 if sampler == "heun" else steps) * (1 if guidance == 1 else 2)


# ---- what a model makes of it ---------------------------------------------------------------------------------------

NAMES = ("a", "b", "c")
SETTINGS: dict[str, Any] = {
    "network": {"classes": 3},
    "process": {"variance": "range"},
    "objective": {"loss": "hybrid"},
    "training": {"label_dropout": 0.2},
}
STEPS = {"sampler": "ancestral", "steps": 5}
# Each group is one way of drawing, said in several ways; two groups differ in one thing at least.
WAYS: list[list[dict[str, Any]]] = [
    [{}, {"sampler": "ancestral"}, {"variance": "range"}, {"guidance": 1, "threshold": "static"}],
    [{"variance": "large"}],
    [{"variance": "small"}],
    [{"variance": "optimal"}],
    [{"threshold": "dynamic"}],
    [{"threshold": "none"}],
    [{"class_name": "b"}, {"class_name": "1"}],
    [{"class_name": "c"}],
    [{"guidance": 2.0}],
    [{"guidance": 0.0}],
    [{"guidance": 2.0, "class_name": "b"}],
    [{"precision": "bfloat16"}, {"precision": "bfloat16", "sampler": "ancestral"}],
    [STEPS, STEPS | {"spacing": "uniform"}],
    [STEPS | {"steps": 6}],
    [STEPS | {"spacing": "quadratic"}],
    [STEPS | {"variance": "small"}, {"steps": 5, "variance": "small"}],
    [STEPS | {"variance": "optimal"}, {"steps": 5, "variance": "optimal"}],
    [{"steps": 5}, {"sampler": "dpm++sde", "steps": 5}, {"steps": 5, "eta": 1.0}, {"steps": 5, "spacing": "uniform"}],
    [{"steps": 5, "eta": 0.5}],
    [{"sampler": "ddim", "steps": 5}, {"sampler": "ddim", "steps": 5, "eta": 0}],
    [{"sampler": "heun", "steps": 5}],
    [{"sampler": "unipc", "steps": 5}],
    [{"steps": 4}, {"sampler": "dpm++sde", "steps": 4}, {"steps": 4, "spacing": "tuned"}, {"steps": 4, "eta": 0.4}],
    [{"steps": 4, "eta": 0.9}, {"sampler": "dpm++sde", "steps": 4, "eta": 0.9}],
    [{"sampler": "dpm++", "steps": 4}, {"sampler": "dpm++", "steps": 4, "spacing": "tuned"}],
    [{"sampler": "dpm++", "steps": 4, "spacing": "uniform"}],
    [{"sampler": "ancestral", "steps": 4, "variance": "small"}, {"steps": 4, "variance": "small"}],
]


def measured(model: Model, error: float) -> Variances:
    table = np.linspace(error, 0.5, model.recipe.process.steps + 1)
    tables = Measured(table, np.log(table), table, 0.3)
    return Variances(tables, "here", "f" * 64, (), 0, 1)


def tune(model: Model, sampler: str, levels: tuple[float, ...], eta: float | None = None) -> None:
    found = TunedTimesteps(levels, eta, "how", 1.0, 2.0, "uniform", 64, 640, 0, "here", 10)
    add_timesteps(model, sampler, found)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Of three classes, two kinds of tuning, and a variance of its own."""
    found = stored_model(tmp_path / "model", NAMES, **SETTINGS)
    write_variances(found, measured(found, 1e-3))
    tune(found, "dpm++sde", (1.5, 4.25, 7.0, 11.5), 0.4)
    tune(found, "dpm++", (1.5, 4.25, 7.0, 11.0))
    return found


def both(model: Model, sampling: Sampling) -> tuple[dict[str, Any], bytes]:
    """The protocol, and the images: of eight seeds, so that every class is drawn."""
    table = protocol(model, plan_for(model, sampling))
    text = json.dumps(table, allow_nan=False)
    assert json.loads(text) == table, "no tuples, no keys that are no text, no NumPy"
    return table, drawn(model, range(8), sampling).numpy().tobytes()


def test_protocols_are_equal_exactly_where_the_images_are(model: Model):
    """Of all pairs of ways to say how: two names of one way have one protocol and draw the same, all others differ
    in both."""
    ways = [(number, Sampling(**words)) for number, group in enumerate(WAYS) for words in group]
    found = [(number, sampling, *both(model, sampling)) for number, sampling in ways]
    for (one, asked, table, images), (other, asked_too, *theirs) in itertools.combinations(found, 2):
        same = one == other
        assert [table == theirs[0], images == theirs[1]] == [same, same], (asked, asked_too)


def test_other_weights_another_tuning_and_another_measurement_are_other_protocols(model: Model, tmp_path: Path):
    ways = [Sampling(), Sampling(variance="optimal"), Sampling(steps=4), Sampling("dpm++", 4)]
    before = [both(model, way) for way in ways]

    def changed() -> list[bool]:
        found = [both(model, way) for way in ways]
        differs = [one[0] != other[0] for one, other in zip(before, found, strict=True)]
        assert differs == [one[1] != other[1] for one, other in zip(before, found, strict=True)]
        before[:] = found
        return differs

    write_variances(model, measured(model, 1e-2))
    assert changed() == [False, True, False, False]
    tune(model, "dpm++", (1.5, 4.5, 7.0, 11.0))
    assert changed() == [False, False, False, True]
    tune(model, "dpm++sde", (1.5, 4.25, 7.0, 11.5), 0.5)
    assert changed() == [False, False, True, False]
    assert changed() == [False, False, False, False]
    other = stored_model(tmp_path / "other", NAMES, seed=1, **SETTINGS)
    assert both(other, Sampling())[0] != before[0][0]
    assert both(replace(model, weights="raw"), Sampling())[0] != before[0][0]


def test_a_protocol_names_what_was_chosen_for_the_user(model: Model):
    usual, few = (
        protocol(model, plan_for(model, sampling)) for sampling in (Sampling(), Sampling(steps=4, class_name="b"))
    )
    assert (usual["sampler"], usual["steps"], usual["calls"], usual["levels"]) == ("ancestral", 12, 12, "all")
    assert (usual["variance"], usual["eta"], usual["class"]) == ("range", None, None)
    assert (few["sampler"], few["spacing"], few["levels"]) == ("dpm++sde", "tuned", [1.5, 4.25, 7.0, 11.5])
    assert (few["eta"], few["variance"], few["class"]) == (0.4, None, 1)
    assert (few["precision"], few["noise"]) == ("float32", NOISE_VERSION)


def test_timesteps_tuned_after_a_plan_was_made_change_neither_its_images_nor_its_protocol(model: Model):
    ways = [Sampling(), Sampling(steps=4), Sampling("heun", 3, guidance=2.0, class_name="c")]
    plans, expected = [plan_for(model, way) for way in ways], [both(model, way) for way in ways]
    tune(model, "dpm++sde", (1.5, 4.5, 7.0, 11.0))
    for found, (table, images) in zip(plans, expected, strict=True):
        assert draw(model, range(8), found).numpy().tobytes() == images
        assert protocol(model, found) == table
    assert both(model, ways[1]) != expected[1]


def test_levels_tuned_for_a_sampler_and_a_number_of_steps_serve_those_alone(model: Model):
    """Whether the sampler was named or chosen; a variance that is named chooses the ancestral one."""

    def found(**words: Any) -> tuple[str, str]:
        chosen = plan_for(model, Sampling(**words))
        return chosen.sampling.method, chosen.spacing

    tune(model, "unipc", (2.5, 9.5))
    assert found(steps=4) == found(steps=4, eta=1.0) == found(steps=4, spacing="tuned") == ("dpm++sde", "tuned")
    assert found(steps=4, spacing="karras") == ("dpm++sde", "karras")
    assert found(steps=4, variance="small") == ("ancestral", "uniform")
    assert found(steps=4, sampler="unipc") == ("unipc", "uniform")
    assert found(steps=2, sampler="unipc") == ("unipc", "tuned")
    assert found(steps=2) == ("dpm++sde", "uniform")
    assert found() == ("ancestral", "all")


@pytest.mark.parametrize("weights", ["ema", "raw"])
@pytest.mark.parametrize("sampler", [None, *SAMPLERS])
def test_levels_that_were_never_tuned_name_the_command_that_does_it(sampler: str | None, weights: str, model: Model):
    """A command typed from the sentence must be the one that helps: raw weights have levels of their own."""
    with pytest.raises(InputError) as caught:
        plan_for(replace(model, weights=weights), Sampling(sampler, 7, "tuned"))
    option = "" if weights == "ema" else " --weights raw"
    said = str(caught.value)
    assert f"`ddpm tune timesteps {model.source}{option}`" in said
    assert f"--sampler {sampler or FAST} --steps 7" in said


def test_more_steps_than_the_model_has_levels_are_refused_tuned_or_not(model: Model):
    for spacing in (None, *CHOICES["spacing"]):
        with pytest.raises(InputError, match="choose 1 to 12"):
            plan_for(model, Sampling(steps=13, spacing=spacing))


@pytest.mark.parametrize("spacing", ["quadratic", "log-snr", "karras"])
def test_a_model_of_the_mean_draws_at_whole_levels_only(spacing: str, tmp_path: Path):
    model = stored_model(tmp_path / "model", objective={"prediction": "mean"})
    for sampling in (Sampling(), Sampling(steps=5), Sampling("ancestral", 5, "uniform")):
        assert drawn(model, [1], sampling).shape == (1, 1, 4, 4)
    with pytest.raises(InputError, match=r"the mean.*--spacing uniform"):
        plan_for(model, Sampling(steps=5, spacing=spacing))


@pytest.mark.parametrize("steps", [None, 5])
def test_a_variance_that_was_not_measured_is_refused_by_the_plan_on_any_levels(steps: int | None, tmp_path: Path):
    model = stored_model(tmp_path / "model")
    with pytest.raises(InputError, match="ddpm tune"):
        plan_for(model, Sampling("ancestral", steps, variance="optimal"))
    with pytest.raises(InputError, match="not trained with variance 'range'"):
        plan_for(model, Sampling("ancestral", steps, variance="range"))
