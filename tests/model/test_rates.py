"""The learning rate in closed form: warm-up, constant, cool-down."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ddpm.errors import InputError
from ddpm.model.rates import cooldown_begins, cooldown_start, cooling, learning_rate
from ddpm.model.recipe import Recipe, load_recipe


def cifar10(train_images: int = 1000, warmup_images: int = 0, cooldown: float = 0.0) -> Recipe:
    training = {"warmup_images": warmup_images, "cooldown": cooldown}
    return load_recipe("cifar10", {"train_images": train_images, "training": training})


@pytest.mark.parametrize(("step", "rate"), [(0, 0), (1, 4e-8), (2500, 1e-4), (5000, 2e-4), (5001, 2e-4), (10**6, 2e-4)])
def test_the_rate_of_the_cifar10_recipe_rises_over_five_thousand_steps(step: int, rate: float):
    assert learning_rate(load_recipe("cifar10"), 128 * step) == pytest.approx(rate, rel=1e-12, abs=0)


@pytest.mark.parametrize(("name", "rate"), [("lsun-bedroom-256", 2e-5), ("lsun-bedroom-256-large", 2e-5)])
def test_the_rate_of_the_large_images_recipes_rises_over_as_many_steps_of_their_batch(name: str, rate: float):
    recipe = load_recipe(name)
    found = [learning_rate(recipe, recipe.batch_size * step) for step in (0, 2500, 5000, 9000)]
    assert found == pytest.approx([0, rate / 2, rate, rate], rel=1e-12, abs=0)


def test_without_a_warm_up_the_rate_is_constant():
    assert [learning_rate(cifar10(), images) for images in (0, 999, 5000)] == [2e-4] * 3


@pytest.mark.parametrize("warmup", [0, 250, 900])
@pytest.mark.parametrize("cooldown", [Fraction(0), Fraction(1, 10), Fraction(2, 5), Fraction(99, 100)])
def test_the_rate_falls_linearly_to_nothing_over_the_last_share_of_the_run(cooldown: Fraction, warmup: int):
    """In exact fractions; a warm-up that is longer than the constant part is cut by the cool-down."""
    recipe = cifar10(1000, warmup, float(cooldown))
    for images in (0, 1, 249, 250, 599, 600, 601, 750, 899, 900, 901, 989, 990, 991, 999, 1000, 1127):
        rising = min(Fraction(1), Fraction(images, warmup)) if warmup else 1
        falling = min(Fraction(1), max(Fraction(0), (1 - Fraction(images, 1000)) / cooldown)) if cooldown else 1
        assert learning_rate(recipe, images) == pytest.approx(2e-4 * float(rising * falling), rel=1e-12, abs=0)


@pytest.mark.parametrize("cooldown", [0.1, 0.29, 0.4, 1 / 3, 0.999])
@pytest.mark.parametrize("images", [1, 7, 1000, 1_600_000, 10**15])
def test_up_to_its_start_the_rate_is_that_of_a_run_without_end(cooldown: float, images: int):
    """Bit for bit, so that a longer run passes through the same states."""
    recipe, start = cifar10(images, images // 3, cooldown), cooldown_start(cifar10(images, 0, cooldown))
    endless = cifar10(10**15, images // 3)
    assert abs(start - (1 - cooldown) * images) <= max(1, 1e-12 * images)
    for seen in {0, start // 2, start - 1, start} - {-1}:
        assert learning_rate(recipe, seen) == learning_rate(endless, seen)
    if start < images:
        assert cooling(recipe, start + 1) < 1
        assert cooling(recipe, images) == 0


@pytest.mark.parametrize("cooldown", [0.0, 0.001, 0.4, 0.5, 0.999])
@pytest.mark.parametrize("images", [1000, 1024])
def test_one_state_of_a_run_is_the_last_before_the_cool_down(cooldown: float, images: int):
    """That after which a step at the whole rate is followed by one at less, if there are such steps."""
    recipe = cifar10(images, 0, cooldown)
    factors = {seen: cooling(recipe, seen) for seen in range(0, images + 128, 128)}
    found = [seen for seen in factors if cooldown_begins(recipe, seen)]
    assert found == [seen for seen in factors if factors[seen] == 1 > factors.get(seen + 128, 0) and cooldown][:1]


@pytest.mark.parametrize("cooldown", [1, 1.0, -0.1, "0.2", True])
def test_a_cool_down_is_a_share_below_one(cooldown: object):
    with pytest.raises(InputError, match=r"training\.cooldown"):
        load_recipe("cifar10", {"training": {"cooldown": cooldown}})
