"""Classifier-free guidance (Ho & Salimans 2022): what is mixed, and networks that learned to do without classes."""

from __future__ import annotations

import copy
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.base.geometry import Geometry
from ddpm.base.units import x_to_images
from ddpm.data.stream import Batch
from ddpm.diffusion.denoiser import Denoiser, Guided
from ddpm.diffusion.process import PREDICTIONS, Process
from ddpm.diffusion.schedule import make_schedule
from ddpm.errors import InputError
from ddpm.generation.draw import labels_for, plan_for
from ddpm.model.model import Model, build_network
from ddpm.model.recipe import Recipe, make_recipe, resolve
from ddpm.samplers.plan import SAMPLERS, Sampling
from ddpm.samplers.trajectory import trajectory
from ddpm.training.learner import Learner
from scorings import RECIPE, drawn, merged, stored_model

CPU = torch.device("cpu")
SCHEDULE = make_schedule()
NAMES = ("a", "b", "c")
CLASSES: dict[str, Any] = {"network": {"classes": 3}, "training": {"label_dropout": 0.25}}
NO_LABEL = 3
WEIGHTS = [-0.5, 0.0, 0.3, 1.0, 2.0, 7.5]


def speaking(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
    """A network with as many channels again for a spread; each of its outputs depends on all it is given."""
    assert labels is not None
    shift = (labels + 0.01 * time).to(x.dtype).reshape(-1, 1, 1, 1)
    return torch.cat([torch.sin(2 * x + shift), torch.cos(x.flip(-1) - shift)], dim=1)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, TIME, LABELS = normal(0, 4, 2, 3, 5), torch.tensor([0, 3, 500, 999]), torch.tensor([0, 2, 1, 1])
NONE = torch.full_like(LABELS, NO_LABEL)


# ---- what is mixed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_prediction_is_linear_in_the_weight_and_the_spread_is_the_classs_own(weight: float):
    """Weight 0 is the network without a class, 1 the one with it: u + w (c - u), here to float64's rounding."""
    found = Guided(speaking, weight, NO_LABEL)(X, TIME, LABELS)
    with_class, without = speaking(X, TIME, LABELS), speaking(X, TIME, NONE)
    expected = (1 - weight) * without + weight * with_class
    assert (found[:, :2] - expected[:, :2]).abs().max() < 1e-14 * max(1, abs(weight)) * 4
    assert torch.equal(found[:, 2:], with_class[:, 2:])
    assert found.shape == with_class.shape


def test_weights_nought_and_one_are_the_network_without_and_with_the_class():
    found = [Guided(speaking, weight, NO_LABEL)(X, TIME, LABELS)[:, :2] for weight in (0.0, 1.0)]
    assert torch.equal(found[0], speaking(X, TIME, NONE)[:, :2])
    assert (found[1] - speaking(X, TIME, LABELS)[:, :2]).abs().max() < 1e-15 * 4
    assert (found[0] - found[1]).abs().max() > 0.1


def test_a_network_without_a_spread_is_mixed_whole():
    found = Guided(lambda *given: speaking(*given)[:, :2], 2.0, NO_LABEL)(X, TIME, LABELS)
    assert torch.equal(found, Guided(speaking, 2.0, NO_LABEL)(X, TIME, LABELS)[:, :2])


def test_both_answers_come_from_one_call_of_twice_the_batch():
    seen: list[tuple[Tensor, ...]] = []

    def listening(*given: Tensor) -> Tensor:
        seen.append(given)
        return speaking(*given)

    Guided(listening, 2.0, NO_LABEL)(X, TIME, LABELS)
    ((x, time, labels),) = seen
    assert torch.equal(x, torch.cat([X, X]))
    assert torch.equal(time, torch.cat([TIME, TIME]))
    assert labels.tolist() == [*LABELS.tolist(), 3, 3, 3, 3]


MEANS, SHARES, SPREAD = torch.tensor([-0.6, 0.1, 0.5], dtype=torch.float64), (0.5, 0.2, 0.3), 0.25


def log_densities(xt: Tensor, level: int) -> Tensor:
    """ln of share_k N(xt; sqrt(a) m_k, a s^2 + 1 - a) for single pixels of three Gaussian classes: (B, 3)."""
    a = SCHEDULE.alpha_bar[level]
    variance = a * SPREAD**2 + 1 - a
    apart = xt.reshape(-1, 1) - math.sqrt(a) * MEANS
    return torch.tensor(SHARES, dtype=torch.float64).log() - 0.5 * apart**2 / variance - 0.5 * math.log(variance)


def exact(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
    """The noise that a perfect network predicts, of the class or of all of them together."""
    assert labels is not None
    level = int(time[0]) + 1
    a = SCHEDULE.alpha_bar[level]
    each = math.sqrt(1 - a) * (x.reshape(-1, 1) - math.sqrt(a) * MEANS) / (a * SPREAD**2 + 1 - a)
    mixed = (log_densities(x, level).softmax(1) * each).sum(1)
    of_class = each.gather(1, labels.clamp(max=2).reshape(-1, 1)).squeeze(1)
    return torch.where(labels == NO_LABEL, mixed, of_class).reshape(x.shape)


@pytest.mark.parametrize("level", [1, 50, 400, 1000])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_on_gaussian_classes_it_is_the_score_of_the_density_sharpened_by_the_class(weight: float, level: int):
    """eps = -sigma d/dx [ln p(x) + w ln p(class | x)], the derivative by autograd: an implicit classifier (sec. 3.2).

    Rounding only; at level 1 the densities are 16 sigma apart and the classifier is sure."""
    xt = (0.8 * normal(1, 60)).requires_grad_()
    labels = torch.arange(60) % 3
    found = Guided(exact, weight, NO_LABEL)(
        xt.detach().reshape(60, 1, 1, 1), torch.full((60,), level - 1), labels
    ).flatten()
    joint = log_densities(xt, level)
    whole = joint.logsumexp(1)
    sharpened = whole + weight * (joint.gather(1, labels.reshape(-1, 1)).squeeze(1) - whole)
    (slope,) = torch.autograd.grad(sharpened.sum(), xt)
    expected = -math.sqrt(1 - SCHEDULE.alpha_bar[level]) * slope
    assert (found - expected).abs().max() < 1e-12 * (1 + expected.abs().max())


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_it_may_mix_whatever_a_network_says(prediction: str, weight: float):
    """Two clean images, one with the class and one without, told as eps, x0, v or mean: what comes out is their
    mixture. A mean is divided by its weight of x0, as small as 0.01 here, so rounding grows a hundredfold."""
    process, t = Process(SCHEDULE), torch.tensor([2, 40, 600, 1000])
    x0 = normal(2, 2, 4, 2, 3, 5)
    a = torch.from_numpy(SCHEDULE.alpha_bar[t.numpy()]).reshape(-1, 1, 1, 1)
    with_class, without = (
        process.target(prediction, each, t, noise=(X - a.sqrt() * each) / (1 - a).sqrt()) for each in x0
    )

    def says(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        which = (labels == NO_LABEL).reshape(-1, 1, 1, 1)
        return torch.where(which, torch.cat([without, without]), torch.cat([with_class, with_class]))

    denoiser = Denoiser(Guided(says, weight, NO_LABEL), process, prediction, threshold="none", dtype=torch.float64)
    expected = x0[1] + weight * (x0[0] - x0[1])
    assert (denoiser.x0(X, t, LABELS) - expected).abs().max() < 1e-8


# ---- a model that learned both --------------------------------------------------------------------------------------


def recipe(**changes: Any) -> Recipe:
    found = make_recipe(merged(merged(RECIPE, CLASSES), changes))
    return resolve(found, Geometry(1, 4, 4), found.network.classes or 0)


@pytest.mark.parametrize(("share", "rows"), [(0.0, 3), (0.25, 4), (1e-9, 4)])
def test_dropping_labels_takes_one_more_embedding(share: float, rows: int):
    network = build_network(recipe(training={"label_dropout": share}))
    assert network.label is not None
    assert network.label.num_embeddings == rows
    plain = build_network(recipe(training={"label_dropout": 0.0}))
    others = {name: weights.shape for name, weights in network.state_dict().items() if name != "label.weight"}
    assert others == {name: w.shape for name, w in plain.state_dict().items() if name != "label.weight"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return stored_model(tmp_path_factory.mktemp("models") / "model", NAMES, **CLASSES)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_guidance_doubles_the_work_and_changes_the_images_unless_it_is_one(sampler: str, model: Model):
    asked: list[int] = []
    hook = model.network.register_forward_hook(lambda module, given, output: asked.append(len(given[0])))
    images = {}
    for guidance in (1.0, 2.0, 3.0):
        asked.clear()
        images[guidance] = drawn(model, range(4), Sampling(sampler, guidance=guidance))
        assert sum(asked) == 4 * (23 if sampler == "heun" else 12) * (1 if guidance == 1 else 2)
    hook.remove()
    assert (images[1.0] != images[2.0]).any()
    assert (images[2.0] != images[3.0]).any()


@pytest.mark.parametrize("class_name", [None, "b"])
def test_guidance_nought_draws_as_if_there_were_no_class(class_name: str | None, model: Model):
    """The same chain with the number for no class given outright; sums of other batches: one grey level in 0.5 %."""
    sampling = Sampling("ddim", 5)
    found = drawn(model, range(8), Sampling("ddim", 5, class_name=class_name, guidance=0.0))
    none, plan = torch.full((8,), NO_LABEL), plan_for(model, sampling)
    *_, last = trajectory(model.denoiser, model.geometry, range(8), plan, labels=none, device=CPU)
    apart = (found.int() - x_to_images(last.x).int()).abs()
    assert apart.max() <= 1
    assert apart.sum() <= 0.005 * apart.numel()
    assert (found != drawn(model, range(8), Sampling("ddim", 5, class_name=class_name))).any()


def test_images_without_guidance_are_of_the_classes_never_of_none(model: Model):
    """Drawn from the seeds there are three, though the network knows four numbers; nor can the fourth be named."""
    labels = labels_for(model, range(200))
    assert labels is not None
    assert set(labels.tolist()) == {0, 1, 2}
    with pytest.raises(InputError, match="a, b, c"):
        plan_for(model, Sampling(class_name="3"))


@pytest.mark.parametrize("kind", ["without drop-out", "without classes"])
def test_guidance_of_a_model_that_never_learned_without_its_classes_is_refused_in_one_sentence(
    kind: str, tmp_path: Path
):
    settings: dict[str, Any] = {"network": {"classes": 3}} if kind == "without drop-out" else {}
    plain = stored_model(tmp_path / "model", NAMES if settings else (), **settings)
    for guidance in (0.0, 2.0):
        with pytest.raises(InputError) as caught:
            plan_for(plain, Sampling(guidance=guidance))
        said = str(caught.value)
        assert "label_dropout" in said
        assert plain.source in said
        assert said.endswith(".")
        assert "\n" not in said
    assert drawn(plain, [0], Sampling(guidance=1)).shape == (1, 1, 4, 4)


# ---- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [0, 1, None])
def test_a_recipe_without_classes_cannot_drop_their_labels(classes: int | None):
    """One class counts as none, unless the recipe asks for it."""
    found = make_recipe(merged(RECIPE, {"training": {"label_dropout": 0.1}, "network": {"classes": None}}))
    if classes:
        found = make_recipe(found.model_dump() | {"network": found.network.model_dump() | {"classes": classes}})
        assert resolve(found, Geometry(1, 4, 4), 1).network.classes == 1
        return
    with pytest.raises(InputError, match=r"training\.label_dropout"):
        resolve(found, Geometry(1, 4, 4), classes or 1)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, "some", True])
def test_a_share_of_labels_is_at_least_nought_and_less_than_one(share: object):
    with pytest.raises(InputError, match=r"'training\.label_dropout'"):
        recipe(training={"label_dropout": share})


# ---- learning without classes ---------------------------------------------------------------------------------------


def batch(size: int, position: int = 0, seed: int = 0) -> Batch:
    dice = np.random.default_rng((seed, position))
    images = torch.from_numpy(dice.integers(0, 256, (size, 1, 4, 4), np.uint8))
    return Batch(images, torch.from_numpy(dice.integers(0, 3, size)), position, np.arange(size))


def heard(learner: Learner, *batches: Batch) -> list[Tensor]:
    """The labels that a learner's network is given, batch by batch."""
    found: list[Tensor] = []
    hook = learner.network.register_forward_pre_hook(lambda module, given: found.append(given[2].clone()))
    for each in batches:
        learner.step(each)
    hook.remove()
    return found


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_labels_are_dropped_at_the_stated_rate_for_the_number_after_the_last_and_no_others_change(share: float):
    """Of 3,000 images: four standard errors; of every class alike."""
    given = [batch(600, 600 * k) for k in range(5)]
    found = torch.cat(heard(Learner(recipe(training={"label_dropout": share}), CPU), *given))
    labels = torch.cat([each.labels for each in given if each.labels is not None])
    dropped = found != labels
    assert set(found[dropped].tolist()) == {NO_LABEL}
    assert abs(dropped.double().mean() - share) < 4 * math.sqrt(share * (1 - share) / 3000)
    for k in range(3):
        rate = dropped[labels == k].double()
        assert abs(rate.mean() - share) < 4 * math.sqrt(share * (1 - share) / len(rate))


def test_without_drop_out_every_label_is_heard():
    given = batch(600)
    (found,) = heard(Learner(recipe(training={"label_dropout": 0.0}), CPU), given)
    assert torch.equal(found, given.labels)  # type: ignore[arg-type]


def test_which_labels_are_dropped_follows_from_the_seed_and_the_images_seen_alone():
    """Not from the images, their classes, the weights or the global state of PyTorch and NumPy."""

    def dropped(seed: int, position: int, *, other: bool = False) -> list[bool]:
        torch.manual_seed(other)
        np.random.seed(other)
        learner = Learner(recipe(seed=seed, training={"label_dropout": 0.5}), CPU)
        if other:
            with torch.no_grad():
                learner.network.conv_in.weight.add_(0.1)
        learner.images_seen = position
        (found,) = heard(learner, batch(64, position, seed=int(other)))
        return (found == NO_LABEL).tolist()

    usual = dropped(0, 128)
    assert dropped(0, 128, other=True) == usual
    assert len({tuple(dropped(*where)) for where in ((0, 128), (0, 192), (0, 0), (1, 128))}) == 4


def test_other_random_numbers_of_a_step_do_not_depend_on_the_drop_out():
    """Noise and levels are streams of their own: the network hears the same noisy images at the same levels."""
    seen = []
    for share in (0.0, 0.5):
        learner = Learner(recipe(training={"label_dropout": share}), CPU)
        hook = learner.network.register_forward_pre_hook(lambda module, given: seen.append(given[:2]))
        learner.step(batch(16))
        hook.remove()
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("stop", [1, 3])
def test_a_learner_that_drops_labels_restored_midway_ends_bit_equal_to_one_that_never_stopped(stop: int):
    """Through torch.save and weights_only; the embedding for no class is learned like the others."""
    whole, first = (Learner(recipe(), CPU) for _ in range(2))
    before = copy.deepcopy(whole.network.label)
    for number in range(stop):
        first.step(batch(8, 8 * number))
    file = io.BytesIO()
    torch.save({"weights": first.weights(), "state": first.state()}, file)
    file.seek(0)
    found = torch.load(file, weights_only=True)
    second = Learner(recipe(), CPU)
    second.restore(found["weights"], found["state"])
    for number in range(6):
        whole.step(batch(8, 8 * number))
        if number >= stop:
            second.step(batch(8, 8 * number))
    for kind, weights in whole.weights().items():
        for name, value in weights.items():
            assert torch.equal(value, second.weights()[kind][name]), (kind, name)
    assert whole.network.label is not None
    assert before is not None
    assert (whole.network.label.weight[NO_LABEL] != before.weight[NO_LABEL]).any()
