"""Timesteps are tuned by drawing: the search finds minima within its budget, and what it finds is what models use."""

from __future__ import annotations

import inspect
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddpm.base.geometry import Geometry
from ddpm.base.seeding import MOST_SEEDS
from ddpm.diffusion.schedule import BETAS, make_schedule
from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.generation.draw import plan_for
from ddpm.metrics import extractors
from ddpm.metrics.extractors import open_extractor
from ddpm.metrics.features import Extractor, features_of
from ddpm.metrics.frechet import frechet_distance
from ddpm.metrics.statistics import statistics_of
from ddpm.model.model import Model
from ddpm.model.sidecar import Sidecar
from ddpm.model.timesteps import SIDECAR, TunedTimesteps, read_timesteps, tuned_for
from ddpm.samplers.plan import DEFAULT_ETA, ETA, SAMPLERS, Sampling, Tuned
from ddpm.samplers.spacing import SPACINGS, spaced
from ddpm.tuning import timesteps
from ddpm.tuning.criterion import FEWEST, FIRST_SEED, Criterion, criterion_on
from ddpm.tuning.search import SMALLEST_STEP, Point, compass
from ddpm.tuning.timesteps import Curve, Trials, check_tuning, levels_at, search_timesteps, tune_timesteps
from scorings import Counting, drawn, image_set, pixels, stored_model

PAPER = make_schedule()
TRIALS = 12
EVERY_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS)


# ---- the search -----------------------------------------------------------------------------------------------------

BOTTOM, STEPS = (1.7, -0.33, 12.05), (1.0, 0.1, 4.0)


def hollow(point: Point) -> float:
    """Its bottom is 0, at BOTTOM; steps of 1, 0.1 and 4 weigh alike."""
    return sum(((x - b) / s) ** 2 for x, b, s in zip(point, BOTTOM, STEPS, strict=True))


def always() -> bool:
    return True


@pytest.mark.parametrize("start", [(0.0, 0.0, 0.0), (1.7, -0.33, 12.05), (-5.0, 1.0, 30.0)])
def test_the_bottom_of_a_quadratic_is_found_to_half_a_smallest_step_in_each_coordinate(start: Point):
    """The search ends where no smallest step helps: (d + s)^2 >= d^2 both ways, so |d| <= s / 2."""
    found = compass(hollow, start, STEPS, always)
    for x, bottom, step in zip(found, BOTTOM, STEPS, strict=True):
        assert abs(x - bottom) <= SMALLEST_STEP / 2 * step * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_bottom_is_found_through_noise_as_far_as_noise_allows(seed: int):
    """Noise of at most e is a function of the point, as of samples from the same seeds: a step s that does not help
    means s^2 - 2 s |d| >= -2 e, so |d| <= s / 2 + e / s."""
    noise, asked = 2e-3, {}

    def cost(point: Point) -> float:
        dice = np.random.default_rng([seed, *(abs(hash(x)) % 2**32 for x in point)])
        return asked.setdefault(point, hollow(point) + dice.uniform(-noise, noise))

    found = compass(cost, (0.0, 0.0, 0.0), STEPS, always)
    assert asked[found] == min(asked.values())
    for x, bottom, step in zip(found, BOTTOM, STEPS, strict=True):
        assert abs(x - bottom) <= (SMALLEST_STEP / 2 + noise / SMALLEST_STEP) * step


def test_the_search_never_moves_uphill_and_ends_when_it_may_not_go_on():
    rounds = iter([True, True, False])
    asked: list[float] = []

    def cost(point: Point) -> float:
        asked.append(hollow(point))
        return asked[-1]

    found = compass(cost, (0.0, 0.0, 0.0), STEPS, lambda: next(rounds))
    assert hollow(found) == min(asked)
    assert len(asked) <= 1 + 2 * 2 * len(STEPS)
    assert compass(hollow, (9.0, 9.0, 9.0), STEPS, lambda: False) == (9.0, 9.0, 9.0)


def test_a_coordinate_that_changes_nothing_stays_and_an_infinite_cost_is_no_way():
    found = compass(lambda point: math.inf if point[0] > 2 else point[1] ** 2, (2.0, 0.5, 7.0), (1.0, 1.0, 1.0), always)
    assert found == (2.0, 0.0, 7.0)
    assert compass(lambda point: math.inf, (1.0,), (1.0,), always) == (1.0,)


class Counted:
    """A cost of levels that remembers what it was asked."""

    def __init__(self, cost: Callable[[Tuned], float]) -> None:
        self.cost, self.asked = cost, list[Tuned]()

    def __call__(self, tuned: Tuned) -> float:
        self.asked.append(tuned)
        return self.cost(tuned)


def test_trials_are_never_made_twice_nor_of_levels_that_meet_nor_beyond_their_budget():
    cost = Counted(lambda tuned: tuned.levels[0])
    trial = Trials(cost, 3)
    assert [trial(Tuned(levels)) for levels in ((2.0, 5.0), (2.0, 2.0), (5.0, 2.0), (2.0, 5.0))] == [
        2.0, math.inf, math.inf, 2.0]  # fmt: skip
    assert (trial.spent, trial.best, trial.value) == (1, Tuned((2.0, 5.0)), 2.0)
    assert [trial(Tuned((2.0, 5.0), eta)) for eta in (0.5, None)] == [2.0, 2.0], "another eta is another trial"
    assert trial(Tuned((1.0, 5.0))) == 1.0
    assert trial(Tuned((0.5, 5.0))) == math.inf
    assert trial(Tuned((2.0, 5.0))) == 2.0, "what is known costs nothing"
    assert (trial.spent, trial.best, trial.value) == (3, Tuned((1.0, 5.0)), 1.0)
    assert cost.asked == [Tuned((2.0, 5.0)), Tuned((2.0, 5.0), 0.5), Tuned((1.0, 5.0))]


# ---- curves ---------------------------------------------------------------------------------------------------------


def log_snrs(levels: tuple[float, ...]) -> np.ndarray:
    alpha_bar = np.array([PAPER.alpha_bar_at(level) for level in levels])
    return np.log(alpha_bar / (1 - alpha_bar))


ENDS = (float(PAPER.log_snr[-1]), float(PAPER.log_snr[1]))


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_without_a_bend_levels_are_uniform_in_the_log_snr(steps: int):
    """Levels are kept to 3 digits; between level 1 and 2 the log-SNR changes by 1.1 a level, elsewhere by less."""
    found = log_snrs(Curve(-7.5, 8.0, 1e-7).tuned(PAPER, steps).levels)
    assert found == pytest.approx(np.linspace(-7.5, 8.0, steps)[::-1], abs=2e-3)


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_from_the_last_level_to_the_first_with_a_bend_of_a_seventh_they_are_those_of_karras(steps: int):
    """To the 3 digits that levels are kept to."""
    found = Curve(*ENDS, 1 / 7).tuned(PAPER, steps).levels
    assert found == pytest.approx(spaced(PAPER, "karras", steps).levels[1:].tolist(), abs=5.1e-4)


def test_one_step_alone_starts_from_the_first_level_as_all_spacings_do():
    """From the noisy end: a chain that started near the clean image would take its noise for one."""
    for bend in (0.02, 1 / 7, 1.0):
        (level,) = Curve(-5.0, 6.0, bend).tuned(PAPER, 1).levels
        assert log_snrs((level,)) == pytest.approx([-5.0], abs=1e-3)
    assert SPACINGS["karras"](PAPER, 1) == pytest.approx([1000])


@pytest.mark.parametrize("schedule", BETAS)
def test_levels_of_any_curve_rise_and_stay_inside_the_process(schedule: str):
    """Ends far outside the process are moved to its own; levels may meet there, and such curves are not tried."""
    process, dice = make_schedule(schedule, steps=300), np.random.default_rng(0)
    for _ in range(100):
        first, last = np.sort(dice.uniform(-25, 25, 2)).tolist()
        levels = Curve(first, last, float(dice.uniform(0.01, 2))).tuned(process, int(dice.integers(1, 30))).levels
        assert (np.diff(levels) >= 0).all()
        assert levels[0] >= 1
        assert levels[-1] <= 300
        inside = process.log_snr[-1] < first and last < process.log_snr[1] and last - first > 1
        assert (np.diff(levels) > 0).all() or not inside


def test_a_curves_coefficients_go_with_its_levels():
    assert Curve(-5.0, 6.0, 0.2, 0.4).tuned(PAPER, 3).eta == 0.4
    assert levels_at(PAPER, np.array([6.0, -5.0]), None).eta is None


@EVERY_SAMPLER
@pytest.mark.parametrize("steps", [1, 12, 1000])
def test_the_usual_curve_fits_any_process_and_takes_the_samplers_own_coefficients(steps: int, sampler: str):
    process = make_schedule(steps=steps, beta_start=0.01)
    curve = Curve.usual(process, sampler)
    assert curve.eta == DEFAULT_ETA.get(sampler)
    levels = curve.tuned(process, min(steps, 3)).levels
    assert levels[-1] == pytest.approx(max(1, 0.85 * steps), abs=5.1e-4)
    assert len(levels) == 1 or levels[0] == pytest.approx(max(1, 0.03 * steps), abs=5.1e-4)


# ---- what samples are judged by -------------------------------------------------------------------------------------

IMAGES = image_set(pixels(150, (1, 4, 4)), name="Ångström:train")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Twelve levels, 1 x 4 x 4."""
    return stored_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def model(stored: Model, tmp_path: Path) -> Model:
    """The same with a folder of its own."""
    return replace(stored, source=str(tmp_path))


@pytest.fixture
def calls(model: Model) -> list[int]:
    """Images the network is asked about, batch by batch."""
    asked: list[int] = []
    hook = model.network.register_forward_hook(lambda module, given, output: asked.append(len(given[0])))
    yield asked  # type: ignore[misc]
    hook.remove()


def halves(name: str, geometry: object, device: torch.device) -> Extractor:
    """Other features, as a network of that name would give them: means of the upper and of the lower half."""
    network = lambda images: images.double().flatten(1).unflatten(1, (2, -1)).mean(2)  # noqa: E731
    return Extractor(name, "7" * 64, 2, Geometry(1, 4, 4), device, network)


@pytest.fixture(autouse=True)
def second_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors, "FEATURES", {**extractors.FEATURES, "halves": halves})


def distance(model: Model, criterion: Criterion, sampling: Sampling, features: str = "pixels") -> float:
    """What the criterion should say of a way to draw, by other functions."""
    extractor = open_extractor(features, model.geometry, torch.device("cpu"))
    samples = statistics_of(features_of(extractor, [drawn(model, criterion.seeds(), sampling, batch_size=64)]))
    return frechet_distance(samples, statistics_of(features_of(extractor, [torch.from_numpy(IMAGES.array())])))


def test_the_criterion_says_what_it_is_and_asks_no_network(model: Model, calls: list[int]):
    for features, words in ((["pixels"], ()), (["pixels", "halves"], ("geometric mean", "halves (777777777777)"))):
        said = str(criterion_on(model, IMAGES, features, samples=70))
        for word in ("Fréchet", "70 samples", "150 images", "Ångström:train", "pixels", *words):
            assert word in said
    assert "geometric" not in str(criterion_on(model, IMAGES, ["pixels"], samples=70))
    assert criterion_on(model, IMAGES, ["pixels"], samples=70).data == "Ångström:train"
    assert calls == []


def test_of_one_sort_of_features_it_is_the_frechet_distance_and_of_several_their_geometric_mean(model: Model):
    """Of the same images; the same sort named twice counts once."""
    sampling = Sampling(steps=3)
    one, other, both, twice = (
        criterion_on(model, IMAGES, features, samples=FEWEST)
        for features in (["pixels"], ["halves"], ["pixels", "halves"], ["halves", "halves"])
    )
    images = drawn(model, one.seeds(), sampling)
    assert one.of(images) == pytest.approx(distance(model, one, sampling), rel=1e-9)
    assert other.of(images) == pytest.approx(distance(model, one, sampling, "halves"), rel=1e-9)
    assert both.of(images) == pytest.approx(math.sqrt(one.of(images) * other.of(images)), rel=1e-12)
    assert twice.of(images) == other.of(images)


def test_samples_like_the_images_are_near_and_never_nearer_than_nought(model: Model):
    """The images themselves: nothing but rounding, on either side of 0, and no root of a negative number."""
    both = criterion_on(model, IMAGES, ["pixels", "halves"])
    images = torch.from_numpy(IMAGES.array())
    assert 0 <= both.of(images) < 1e-6
    assert both.of(images) < both.of(images.flip(0)[:100]) < both.of(255 - images // 2)


def test_many_images_are_a_sample_drawn_by_the_seed(model: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddpm.tuning.criterion.MOST_IMAGES", 100)
    found = [criterion_on(model, IMAGES, ["pixels"], samples=64, seed=seed) for seed in (0, 0, 1)]
    assert all("to 100 images" in str(each) for each in found)
    images = torch.from_numpy(IMAGES.array())
    assert found[0].of(images) == found[1].of(images) != found[2].of(images)


@pytest.mark.parametrize("seed", [0, 1, 7, 1000])
def test_the_seeds_of_trials_are_far_from_those_that_people_write_and_apart_from_each_other(seed: int, model: Model):
    found = criterion_on(model, IMAGES, ["pixels"], samples=64, seed=seed).seeds()
    assert found == range(1_000_000_000 + 64 * seed, 1_000_000_064 + 64 * seed)
    assert found[0] >= FIRST_SEED > 10 * MOST_SEEDS, "more than --seeds writes in one range"
    assert not set(found) & set(criterion_on(model, IMAGES, ["pixels"], samples=64, seed=seed + 1).seeds())


# ---- the search for one number of steps -----------------------------------------------------------------------------


def found_by(
    model: Model, sampler: str, steps: int, *, trials: int = TRIALS, seed: int = 0, **more: Any
) -> TunedTimesteps:
    criterion = criterion_on(model, IMAGES, ["pixels"], samples=FEWEST, seed=seed)
    return search_timesteps(model, criterion, sampler, steps, trials=trials, **{"batch_size": 64} | more)[0]


@EVERY_SAMPLER
def test_what_is_found_is_no_worse_than_the_best_spacing_by_name_and_the_budget_is_kept(
    sampler: str, model: Model, calls: list[int]
):
    """Never worse, because the spacings by name are tried first; the numbers said are those that were counted."""
    told: list[int] = []
    found = found_by(model, sampler, 3, advance=told.append)
    each = 5 if sampler == "heun" else 3
    assert sum(calls) == found.calls
    assert sum(told) == 3 * FEWEST * (found.calls // (each * FEWEST)), "steps, not calls, are what a bar counts"
    assert found.calls <= TRIALS * FEWEST * each
    assert found.calls > len(SPACINGS) * FEWEST * each, "some was tried beyond the spacings by name"
    assert found.value <= found.before
    assert found.best_named in SPACINGS
    assert (np.diff(found.levels) > 0).all()
    assert found.levels[0] >= 1
    assert found.levels[-1] <= 12
    assert (found.eta is not None) == (sampler in ETA)
    low, high = ETA.get(sampler, (0, 0))
    assert found.eta is None or low <= found.eta <= high
    assert (found.samples, found.seed, found.data) == (FEWEST, 0, "Ångström:train")
    assert found.trials * FEWEST * each == found.calls


def tuned(model: Model, sampler: str, *steps: int, trials: int = TRIALS, **more: Any) -> dict[int, TunedTimesteps]:
    """What tune_timesteps finds and stores."""
    report = tune_timesteps(model, IMAGES, sampler=sampler, steps=steps, trials=trials, samples=FEWEST, **more)
    assert report.file == SIDECAR.path(model)
    for one in report.found:
        assert read_timesteps(model, sampler, len(one.levels)) == one
    return {len(one.levels): one for one in report.found}


# ---- what is stored -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["dpm++sde", "ddim", "heun", "ancestral"])
def test_what_is_stored_is_what_the_model_then_draws_with_and_it_is_worth_what_was_said(sampler: str, model: Model):
    """Drawn anew through the side file, and judged anew: images are the same, so are the distances to rounding."""
    (found,) = tuned(model, sampler, 3).values()
    plan = plan_for(model, Sampling(sampler, 3))
    assert (plan.spacing, plan.eta) == ("tuned", found.eta)
    assert plan.chain.levels[1:].tolist() == list(found.levels)
    criterion = criterion_on(model, IMAGES, ["pixels"], samples=FEWEST)
    assert distance(model, criterion, Sampling(sampler, 3)) == pytest.approx(found.value, rel=1e-9, abs=1e-9)
    named = {name: distance(model, criterion, Sampling(sampler, 3, name)) for name in SPACINGS}
    assert found.before == pytest.approx(min(named.values()), rel=1e-9, abs=1e-9)
    assert named[found.best_named] == min(named.values())
    for steps in (2, 4):
        assert tuned_for(model, sampler, steps) is None


def test_several_numbers_of_steps_are_tuned_in_rising_order_and_each_is_kept_at_once(
    model: Model, monkeypatch: pytest.MonkeyPatch
):
    """A stop after the first leaves the first; the second begins where the first ended."""
    criterion = criterion_on(model, IMAGES, ["pixels"], samples=FEWEST)
    first, curve = search_timesteps(model, criterion, "dpm++sde", 2, trials=6, batch_size=64)
    second, _ = search_timesteps(model, criterion, "dpm++sde", 4, trials=6, batch_size=64, start=curve)

    def stops(model: Model, criterion: Criterion, sampler: str, steps: int, **how: Any) -> Any:
        if steps == 4:
            raise KeyboardInterrupt
        return search_timesteps(model, criterion, sampler, steps, **how)

    with monkeypatch.context() as patch:
        patch.setattr(timesteps, "search_timesteps", stops)
        with pytest.raises(KeyboardInterrupt):
            tuned(model, "dpm++sde", 4, 2, trials=6)
    assert read_timesteps(model, "dpm++sde", 2) == first
    assert read_timesteps(model, "dpm++sde", 4) is None
    assert tuned(model, "dpm++sde", 4, 2, 4, trials=6) == {2: first, 4: second}


def test_the_report_says_what_was_found_and_the_progress_counts_steps(model: Model):
    progress = Counting()
    report = tune_timesteps(model, IMAGES, steps=[2, 3], sampler="heun", trials=5, samples=FEWEST, progress=progress)
    (said,) = progress.said
    assert f"{5 * FEWEST * (3 + 5):,} network calls" in said, "at most, 2 N - 1 a sample"
    ((done, total),) = progress.stages.values()
    assert 0 < done <= total == 5 * FEWEST * (2 + 3)
    table, said = report.table(), "\n".join(report.lines())
    assert (table["file"], table["sampler"]) == (str(report.file), "heun")
    assert [len(one["levels"]) for one in table["tuned"].values()] == [*table["tuned"]] == [2, 3]
    assert table["criterion"] == report.criterion == report.found[0].criterion
    for one in report.found:
        for fact in (f"{len(one.levels)} levels", f"{one.value:.4g}", f"{one.before:.4g}", one.best_named):
            assert fact in said
    assert "sample --steps 3 --sampler heun" in said
    assert "eta" not in said
    assert ", eta " in "\n".join(tune_timesteps(model, IMAGES, steps=[2], trials=5, samples=FEWEST).lines())


def test_the_same_question_has_the_same_answer_and_another_seed_asks_another(model: Model):
    """In any batch: the network's sums may differ in their last bits, so that one sample in many moves a level."""
    one, again, other = (
        found_by(model, "dpm++sde", 3),
        found_by(model, "dpm++sde", 3),
        found_by(model, "dpm++sde", 3, seed=1),
    )
    assert one == again
    assert other.before != one.before
    batches = found_by(model, "dpm++sde", 3, trials=5, batch_size=17).value
    assert batches == pytest.approx(found_by(model, "dpm++sde", 3, trials=5).value, rel=0.02)


def test_what_was_stored_before_does_not_change_what_is_tried(model: Model):
    assert tuned(model, "dpm++sde", 3) == tuned(model, "dpm++sde", 3)


def test_more_trials_than_the_least_are_never_worse_and_many_find_something(model: Model):
    """The least number are the spacings by name and one curve, and every search begins with those."""
    least, *more = (found_by(model, "dpm++sde", 4, trials=trials).value for trials in (5, 10, 40))
    assert max(more) <= least
    assert more[1] < least


def test_a_curve_that_was_found_is_where_the_next_search_begins(model: Model):
    criterion = criterion_on(model, IMAGES, ["pixels"], samples=FEWEST)
    _, curve = search_timesteps(model, criterion, "dpm++sde", 4, trials=TRIALS, batch_size=64)
    start = replace(curve, eta=0.25)
    found, _ = search_timesteps(model, criterion, "dpm++sde", 3, trials=5, batch_size=64, start=start)
    tried = {tuple(spaced(model.denoiser.process.schedule, name, 3).levels[1:].tolist()) for name in SPACINGS}
    assert found.levels in tried | {start.tuned(model.denoiser.process.schedule, 3).levels}
    assert found.eta == 0.25


@pytest.mark.parametrize("steps", [1, 2, 11, 12])
def test_any_number_of_steps_up_to_all_can_be_tuned(steps: int, model: Model):
    found = found_by(model, "dpm++sde", steps, trials=7)
    assert len(found.levels) == steps
    assert (np.diff(found.levels) > 0).all()


def test_a_process_of_one_level_can_be_tuned(tmp_path: Path):
    one = stored_model(tmp_path / "model", process={"steps": 1})
    assert found_by(one, "dpm++sde", 1).levels == (1.0,)


# ---- what cannot be tuned -------------------------------------------------------------------------------------------


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        work()
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    return said


@pytest.mark.parametrize("steps", [0, -1, 13])
@EVERY_SAMPLER
def test_steps_that_do_not_fit_are_refused_even_among_others(sampler: str, steps: int, model: Model, calls: list[int]):
    assert str(steps) in refusal(lambda: tuned(model, sampler, 3, steps))
    assert calls == []


def test_no_numbers_of_steps_are_refused(model: Model):
    assert "steps" in refusal(lambda: tuned(model, "dpm++sde"))


@pytest.mark.parametrize("trials", [-1, 0, 4])
def test_too_few_trials_for_the_spacings_by_name_are_refused(trials: int, model: Model, calls: list[int]):
    assert "trials must be at least 5" in refusal(lambda: tuned(model, "dpm++sde", 3, trials=trials))
    assert calls == []


def test_the_command_line_draws_as_many_samples_at_a_time():
    from ddpm.cli import tune

    defaults = [inspect.signature(f).parameters["batch_size"].default for f in (tune_timesteps, tune.timesteps)]
    assert defaults == [64, 64]


def test_a_model_of_the_mean_has_no_levels_between_levels(tmp_path: Path):
    mean = stored_model(tmp_path / "model", objective={"prediction": "mean"})
    said = refusal(lambda: tuned(mean, "dpm++sde", 3))
    assert "the mean" in said
    assert mean.source in said


def test_variances_learned_pixel_by_pixel_leave_no_ancestral_sampler_for_few_steps(tmp_path: Path):
    """Its own variance is what it would draw with, and that belongs to the full chain."""
    settings = {"process": {"variance": "learned"}, "objective": {"loss": "hybrid"}}
    learned = stored_model(tmp_path / "model", **settings)
    assert "learned" in refusal(lambda: check_tuning(learned, "ancestral", [3], TRIALS))
    check_tuning(learned, "dpm++sde", [3], TRIALS)


def test_a_folder_that_cannot_be_written_to_is_refused_first(
    model: Model, calls: list[int], monkeypatch: pytest.MonkeyPatch
):
    def full(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    said = refusal(lambda: tuned(model, "dpm++sde", 3))
    assert model.source in said
    assert "Read-only file system" in said
    assert calls == []


def test_levels_of_a_newer_ddpm_beside_the_checkpoint_are_found_before_the_search_not_after(
    model: Model, calls: list[int]
):
    Sidecar("levels", "ddpm levels", "timesteps", version=99).write(model, {"samplers": {}})
    assert "newer ddpm" in refusal(lambda: tuned(model, "dpm++sde", 3))
    assert calls == []


@pytest.mark.parametrize("state", ["damaged", "of other weights"])
def test_a_file_of_no_use_beside_the_checkpoint_is_replaced(state: str, model: Model):
    SIDECAR.write(replace(model, weights_sha256="0" * 64) if state == "of other weights" else model, {"samplers": {}})
    if state == "damaged":
        SIDECAR.path(model).write_text("{")
    with pytest.raises((DamagedFile, WrongModel)):
        tuned_for(model, "dpm++sde", 2)
    assert tuned(model, "dpm++sde", 2, trials=5).keys() == {2}


def test_images_of_another_geometry_or_without_the_classes_are_refused(model: Model, calls: list[int], tmp_path: Path):
    for images in (pixels(70, (3, 4, 4)), pixels(0, (1, 4, 4))):
        assert "images" in refusal(lambda images=images: tune_timesteps(model, image_set(images), steps=[2]))
    cats = stored_model(tmp_path / "cats", ("cat", "dog"), network={"classes": 2})
    assert "cat, dog" in refusal(lambda: tune_timesteps(cats, IMAGES, steps=[2]))
    assert calls == []


@pytest.mark.parametrize(("samples", "images"), [(FEWEST - 1, 150), (FEWEST, FEWEST - 1), (0, 150), (-1, 150)])
def test_too_few_samples_or_images_are_refused(samples: int, images: int, model: Model):
    few = image_set(pixels(images, (1, 4, 4)))
    said = refusal(lambda: criterion_on(model, few, ["pixels"], samples=samples))
    assert f"{samples} samples" in said
    assert f"{images} images" in said
    assert str(FEWEST) in said


def test_features_that_there_are_not_are_refused_with_those_there_are(model: Model):
    assert "did you mean 'pixels'" in refusal(lambda: criterion_on(model, IMAGES, ["pixels", "pixel"]))


def test_features_of_too_many_numbers_are_refused(tmp_path: Path):
    """3 x 40 x 40 = 4,800."""
    large = stored_model(tmp_path / "model", image={"channels": 3, "height": 40, "width": 40})
    said = refusal(lambda: criterion_on(large, image_set(pixels(64, (3, 40, 40))), ["pixels"], samples=64))
    assert "4,800" in said
    assert "4,096" in said
