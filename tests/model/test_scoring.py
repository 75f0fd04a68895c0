"""What fits a model is scored, what does not is refused in a sentence, and nothing is fitted on what is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddpm.data.sources import ImageSet
from ddpm.data.subsets import chosen_rows, hashes
from ddpm.diffusion.denoiser import LEARNED, REVERSE_VARIANCES
from ddpm.diffusion.optimal_variance import Measured
from ddpm.errors import InputError
from ddpm.likelihood.estimate import estimate_bound
from ddpm.model.model import Model
from ddpm.model.scoring import best_chains, scoring_for
from ddpm.model.variances import Variances, write_variances
from scorings import image_set, pixels, stored_model

SHAPE = (1, 4, 4)
OPTIMAL: dict[str, Any] = {"variance": "optimal"}
SEEN, UNSEEN = pixels(60, SHAPE, seed=1), pixels(60, SHAPE, seed=2)
BEST: dict[str, Any] = {"levels": 3}


def tuned(model: Model, on: ImageSet) -> Model:
    """As if `ddpm tune` had measured it on these images."""
    steps = model.recipe.process.steps
    nats = np.concatenate([[np.nan], 1.0 + np.arange(steps)])
    measured = Measured(np.linspace(0, 0.3, steps + 1), np.full(steps + 1, -8.0), nats, 0.1)
    everything = tuple(hashes(on.array()))
    write_variances(model, Variances(measured, on.name, on.fingerprint, everything, 0, 1))
    return model


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return stored_model(tmp_path / "model")


@pytest.fixture
def cats(tmp_path: Path) -> Model:
    return stored_model(tmp_path / "model", ("cat", "dog", "owl"), network={"classes": 3})


# ---- geometry and numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 4, 8), (1, 8, 4), (3, 4, 4), (2, 4, 4)])
def test_images_of_another_size_or_depth_are_refused(shape: tuple[int, int, int], model: Model):
    with pytest.raises(InputError, match="'here'") as raised:
        scoring_for(model, image_set(pixels(3, shape)))
    assert str(image_set(pixels(1, shape)).geometry) in str(raised.value)
    assert str(model.geometry) in str(raised.value)


def test_no_images_and_a_limit_of_none_are_refused(model: Model):
    with pytest.raises(InputError, match="no images in 'here'"):
        scoring_for(model, image_set(pixels(0, SHAPE)))
    for limit in (0, -3):
        with pytest.raises(InputError, match=f"limit .* not {limit}"):
            scoring_for(model, image_set(pixels(3, SHAPE)), limit=limit)


def test_a_limit_draws_different_images_by_the_seed():
    assert chosen_rows(10, None, 0).tolist() == list(range(10))
    assert chosen_rows(10, 10, 0).tolist() == chosen_rows(10, 99, 0).tolist() == list(range(10))
    rows = chosen_rows(100, 7, 0)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == 7
    assert rows.tolist() != chosen_rows(100, 7, 1).tolist()
    # 3,000 draws of 2 from 10: each is expected 600 times, with a deviation of 22; 5 of them
    counts = np.bincount(np.concatenate([chosen_rows(10, 2, seed) for seed in range(3000)]), minlength=10)
    assert np.abs(counts - 600).max() < 110


def test_a_limit_scores_the_rows_drawn_with_their_labels(cats: Model):
    images, labels = pixels(30, SHAPE), [k % 3 for k in range(30)]
    scoring = scoring_for(cats, image_set(images, labels, ("cat", "dog", "owl")), limit=8, seed=3)
    rows = chosen_rows(30, 8, 3)
    assert len(scoring.images) == 8
    assert (scoring.images.read(np.arange(8)) == images[rows]).all()
    assert scoring.labels.tolist() == [labels[row] for row in rows]


# ---- classes --------------------------------------------------------------------------------------------------------


def test_a_model_with_classes_wants_them(cats: Model):
    with pytest.raises(InputError, match=r"class .*\(cat, dog, owl\).*'here'"):
        scoring_for(cats, image_set(pixels(3, SHAPE)))


def test_classes_it_does_not_know_are_named(cats: Model):
    with pytest.raises(InputError, match=r"bat, eel; .*cat, dog, owl"):
        scoring_for(cats, image_set(pixels(3, SHAPE), [0, 1, 2], ("bat", "cat", "eel")))


@pytest.mark.parametrize("names", [("cat", "dog", "owl"), ("owl", "cat", "dog"), ("dog", "owl")])
def test_classes_are_matched_by_name_whatever_their_order(names: tuple[str, ...], cats: Model):
    """The bound too is the same, because each image meets its own class."""
    kinds = ["dog", "owl", "dog", "owl", "owl"]
    labels = [names.index(kind) for kind in kinds]
    scoring = scoring_for(cats, image_set(pixels(5, SHAPE), labels, names))
    assert scoring.labels.tolist() == [("cat", "dog", "owl").index(kind) for kind in kinds]
    reference = scoring_for(cats, image_set(pixels(5, SHAPE), [1, 2, 1, 2, 2], ("cat", "dog", "owl")))
    assert estimate_bound(scoring, 256) == estimate_bound(reference, 256)


def test_a_model_without_classes_overlooks_them(model: Model):
    assert scoring_for(model, image_set(pixels(3, SHAPE), [0, 1, 2], ("a", "b", "c"))).labels is None


# ---- variances and levels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", LEARNED)
def test_a_variance_the_model_never_learned_is_refused(variance: str, model: Model):
    with pytest.raises(InputError, match=f"'{variance}'; choose one of small, large, optimal"):
        scoring_for(model, image_set(pixels(3, SHAPE)), variance=variance)


def test_a_variance_that_does_not_exist_is_refused_with_all_that_do(model: Model):
    with pytest.raises(InputError, match=f"'medium'.*{', '.join(REVERSE_VARIANCES)}"):
        scoring_for(model, image_set(pixels(3, SHAPE)), variance="medium")


@pytest.mark.parametrize("variance", LEARNED)
def test_a_learned_variance_is_scored_by_a_model_that_has_it(variance: str, tmp_path: Path):
    model = stored_model(tmp_path / "model", process={"variance": variance}, objective={"loss": "hybrid"})
    for asked in (None, variance):
        scoring = scoring_for(model, image_set(pixels(3, SHAPE)), variance=asked)
        assert scoring.denoiser.variance == variance
        assert np.isfinite(estimate_bound(scoring, 256).total.value)
    assert scoring_for(model, image_set(pixels(3, SHAPE)), variance="large").denoiser.variance == "large"


@pytest.mark.parametrize("variance", [v for v in REVERSE_VARIANCES if v != "optimal"])
def test_best_levels_go_with_optimal_variances_only(variance: str, model: Model):
    tuned(model, image_set(SEEN))
    with pytest.raises(InputError, match=f"'optimal', not '{variance}'"):
        scoring_for(model, image_set(UNSEEN), variance=variance, levels=4)
    for asked in (None, "optimal"):
        assert scoring_for(model, image_set(UNSEEN), variance=asked, levels=4).denoiser.variance == "optimal"


def test_best_levels_are_the_chain_that_is_scored(model: Model):
    tuned(model, image_set(pixels(50, SHAPE, seed=1)))
    scoring = scoring_for(model, image_set(pixels(20, SHAPE)), levels=3)
    assert scoring.chain.steps == 3
    assert tuple(scoring.chain.levels[1:]) == best_chains(model, 3).chains[-1]
    assert scoring.denoiser.variance == "optimal"
    for most in (0, 13):
        with pytest.raises(InputError, match="1 to 12"):
            scoring_for(model, image_set(pixels(20, SHAPE)), levels=most)


def test_an_untuned_model_names_the_command(model: Model):
    for options in (OPTIMAL, BEST):
        with pytest.raises(InputError, match=f"`ddpm tune variance {model.source}`"):
            scoring_for(model, image_set(pixels(3, SHAPE)), **options)


# ---- held out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "images",
    [SEEN, SEEN[10:20], SEEN[::-1], SEEN[:1], np.concatenate([SEEN, UNSEEN]), np.concatenate([UNSEEN, SEEN[:5]])],
    ids=["the same", "a slice", "reversed", "one of them", "with as many others", "others with a few of them"],
)
@pytest.mark.parametrize("options", [OPTIMAL, BEST], ids=["optimal", "levels"])
def test_images_that_variances_were_measured_on_are_not_scored(
    images: np.ndarray, options: dict[str, Any], model: Model
):
    tuned(model, image_set(SEEN))
    with pytest.raises(InputError, match="'here' itself") as raised:
        scoring_for(model, image_set(images), **options)
    assert f"`ddpm tune variance {model.source}`" in str(raised.value)


def test_a_limit_does_not_get_around_it(model: Model):
    """Tuned on some of a set, then scored on some of the same set that were not drawn: still the same source."""
    tuned(model, image_set(SEEN))
    with pytest.raises(InputError, match="itself"):
        scoring_for(model, image_set(SEEN), **OPTIMAL, limit=1)


def test_all_that_was_measured_on_hidden_in_many_others_is_refused(model: Model):
    """Five images measured on among 1,000 scored are only one in 200, but they are all there was to fit."""
    tuned(model, image_set(SEEN[:5]))
    with pytest.raises(InputError, match="itself"):
        scoring_for(model, image_set(np.concatenate([pixels(995, SHAPE, seed=3), SEEN[:5]])), **OPTIMAL)


def test_held_out_images_are_scored_with_a_few_duplicates_too(model: Model):
    """One in 200 is the kind of overlap that public training and test sets have."""
    tuned(model, image_set(pixels(300, SHAPE, seed=1)))
    assert scoring_for(model, image_set(UNSEEN), **OPTIMAL).denoiser.measured is not None
    mixed = np.concatenate([pixels(199, SHAPE, seed=4), pixels(300, SHAPE, seed=1)[:1]])
    assert len(scoring_for(model, image_set(mixed), **OPTIMAL).images) == 200


def test_without_anything_fitted_the_training_images_may_be_scored(model: Model):
    tuned(model, image_set(SEEN))
    for variance in (None, "small", "large"):
        assert len(scoring_for(model, image_set(SEEN), variance=variance).images) == 60


def test_settings_are_handed_on(model: Model):
    told: list[Any] = []
    scoring = scoring_for(model, image_set(UNSEEN), seed=7, batch_size=5, advance=told.append)
    assert (scoring.seed, scoring.batch_size, scoring.device) == (7, 5, torch.device("cpu"))
    scoring.advance(3)
    assert told == [3]
    assert scoring.chain is model.denoiser.process.schedule or scoring.chain.steps == 12
