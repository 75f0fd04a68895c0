"""What a recipe leaves unset suits the run: five minutes, an hour, a night on a GPU; and what is set stays."""

from __future__ import annotations

import itertools

import pytest

from ddpm.model.lengths import FIRST_PREVIEW, Lengths, doubling, every, preview_marks
from ddpm.model.recipe import Recipe, load_recipe, make_recipe, with_lengths

RUNS = {  # images, batch, and all that follows
    "a minute of tiny images": (10_000, 32, Lengths(500, 128, 1024, 640, 65_536)),
    "five minutes of small": (29_000, 64, Lengths(1450, 256, 2048, 1408, 65_536)),
    "five minutes of Fashion-MNIST": (140_000, 32, Lengths(7000, 544, 8736, 6976, 65_536)),
    "an hour of Fashion-MNIST": (1_600_000, 128, Lengths(64_000, 6400, 99_968, 80_000, 80_000)),
    "a night on a GPU": (674_000_000, 128, Lengths(64_000, 12_800, 42_124_928, 33_699_968, 33_699_968)),
    "three steps": (24, 8, Lengths(1, 32, 256, 160, 65_536)),
}


def unset(images: int, batch: int, **training: object) -> Recipe:
    return make_recipe({"train_images": images, "batch_size": batch, "training": training})


@pytest.mark.parametrize("name", RUNS)
def test_what_is_unset_follows_from_the_length_of_the_run(name: str):
    images, batch, wanted = RUNS[name]
    recipe = unset(images, batch)
    assert recipe.lengths == wanted
    assert all(size % batch == 0 for size in recipe.lengths[1:])
    whole = with_lengths(recipe)
    assert whole.lengths == wanted
    assert {name: getattr(whole.training, name) for name in Lengths._fields} == wanted._asdict()
    assert with_lengths(whole) == whole


@pytest.mark.parametrize("name", RUNS)
def test_a_curve_has_lines_enough_and_what_is_shown_takes_little(name: str):
    """In trained images: a preview is 16 x 20 calls, a call a third of a trained image."""
    images, batch, _ = RUNS[name]
    recipe = unset(images, batch)
    sizes, steps = recipe.lengths, -(-images // batch)
    assert steps // (sizes.log_images // batch) >= min(steps // 4, 125)
    assert sizes.warmup_images <= images / 20
    assert images // sizes.checkpoint_images <= 20
    assert images // sizes.validate_images * recipe.training.validation_calls / 3 <= 0.021 * images
    assert preview_marks(sizes, batch)(images) <= 16 + 2 + steps.bit_length()


@pytest.mark.parametrize("name", Lengths._fields)
def test_what_is_set_is_taken_and_the_rest_is_as_without_it(name: str):
    images, batch, wanted = RUNS["an hour of Fashion-MNIST"]
    assert unset(images, batch, **{name: "12.345k"}).lengths == wanted._replace(**{name: 12_345})


def test_validations_lie_farther_apart_where_they_take_more_calls():
    assert unset(100_000, 100, validation_calls=50_000).lengths.validate_images == 800_000


@pytest.mark.parametrize(("name", "steps"), [("cifar10", 5000), ("lsun-bedroom-256", 5000)])
def test_the_papers_recipes_keep_their_warm_up(name: str, steps: int):
    recipe = load_recipe(name)
    assert recipe.lengths.warmup_images == steps * recipe.batch_size
    assert load_recipe(name, {"train_images": 1000}).lengths.warmup_images == steps * recipe.batch_size


def passed(marks, most: int) -> list[int]:
    """Images at which a mark is passed, one by one."""
    return [seen for before, seen in itertools.pairwise(range(most + 1)) if marks(seen) != marks(before)]


def test_marks_are_multiples_and_doublings_before_the_first_of_them():
    assert passed(every(30), 100) == [30, 60, 90]
    assert passed(doubling(4, 30), 100) == [4, 8, 16, 30, 60, 90]
    assert passed(doubling(4, 32), 100) == [4, 8, 16, 32, 64, 96]
    assert passed(doubling(30, 30), 100) == [30, 60, 90]
    assert passed(doubling(50, 30), 100) == [30, 60, 90]


@pytest.mark.parametrize("images", [40_000, 300_000, 10_000_000])
def test_the_first_preview_comes_after_the_same_steps_however_long_the_run(images: int):
    recipe = unset(images, 32)
    marks = preview_marks(recipe.lengths, 32)
    first = next(seen for seen in range(0, images, 32) if marks(seen))
    assert first == 32 * FIRST_PREVIEW
