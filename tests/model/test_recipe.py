"""Recipes: the shipped ones say what the paper says, cost what they promise, and errors say what to do."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ddpm.base.geometry import Geometry
from ddpm.diffusion.denoiser import LEARNED, OPTIMAL
from ddpm.diffusion.objectives import LEVEL_SAMPLING, LOSSES, WEIGHTINGS
from ddpm.diffusion.process import PREDICTIONS
from ddpm.diffusion.schedule import BETAS, VARIANCES
from ddpm.errors import InputError
from ddpm.model.model import build_denoiser, build_network
from ddpm.model.recipe import Recipe, changed, load_recipe, make_recipe, recipe_names, resolve

EVERY_RECIPE = pytest.mark.parametrize("name", recipe_names())


def resolved(name: str, classes: int = 0) -> Recipe:
    """With the geometry it fixes, or that of CIFAR-10."""
    recipe = load_recipe(name)
    fixed = recipe.image.height is not None
    return resolve(recipe, recipe.geometry if fixed else Geometry(3, 32, 32), classes)


def refusal(table: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        make_recipe(table)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


# ---- shipped recipes ------------------------------------------------------------------------------------------------


def test_the_recipes_of_the_first_release_are_there():
    wanted = {"digits", "fashion-mnist", "small", "standard", "cifar10", "lsun-bedroom-256", "lsun-bedroom-256-large"}
    assert wanted <= set(recipe_names())


@EVERY_RECIPE
def test_every_shipped_recipe_resolves_to_a_network_that_can_be_called(name: str):
    recipe = resolved(name, classes=10 if load_recipe(name).network.classes is None else 0)
    assert recipe.network.attention_levels is not None
    assert recipe.network.classes is not None
    with torch.device("meta"):
        network = build_network(recipe)
        labels = torch.zeros(1, dtype=torch.int64) if recipe.network.classes else None
        x = torch.zeros(1, *recipe.geometry.shape)
        halves = 2 if recipe.process.variance in LEARNED else 1
        channels, *size = recipe.geometry.shape
        assert network(x, torch.zeros(1, device="cpu"), labels).shape == (1, halves * channels, *size)
    assert build_denoiser(recipe, network).process.schedule.steps == 1000


@EVERY_RECIPE
def test_a_recipe_survives_being_written_down_and_read_again(name: str):
    recipe = resolved(name)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert make_recipe(recipe.model_dump(mode="json")) == recipe


def test_the_defaults_are_the_papers_settings_for_cifar10_but_for_drop_out_flips_and_lengths():
    recipe = Recipe()
    network, process, training = recipe.network, recipe.process, recipe.training
    assert (network.channels, network.multipliers, network.blocks, network.groups) == (128, (1, 2, 2, 2), 2, 32)
    assert (network.attention_levels, network.classes, network.dropout, network.space_to_depth) == (None, None, 0, 1)
    assert (process.schedule, process.steps, process.beta_start, process.beta_end) == ("linear", 1000, 1e-4, 0.02)
    assert (recipe.objective.prediction, recipe.objective.loss, recipe.objective.levels) == ("eps", "simple", "uniform")
    assert (recipe.batch_size, recipe.learning_rate, recipe.train_images) == (128, 2e-4, 800_000 * 128)
    assert (training.warmup_images, training.clip_norm, training.ema_decay) == (None, 1, 0.9999)
    assert (training.ema_ramp, training.flip, training.label_dropout) == (True, False, 0)
    assert (recipe.seed, recipe.precision, recipe.fit, recipe.on_bad_image) == (0, "float32", "crop", "stop")


PAPER = {  # paper sheet, section 3: learning rate, batch, steps, dropout, flips, variance, width, parameters
    "cifar10": (2e-4, 128, 800_000, 0.1, True, "large", 128, 35_746_307),
    "lsun-bedroom-256": (2e-5, 64, 2_400_000, 0.0, False, "small", 128, 113_673_219),
    "lsun-bedroom-256-large": (2e-5, 64, 1_150_000, 0.0, False, "small", 192, 255_677_955),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes_have_the_papers_settings(name: str):
    rate, batch, steps, dropout, flip, variance, width, parameters = PAPER[name]
    recipe = resolved(name)
    assert (recipe.learning_rate, recipe.batch_size, recipe.train_images) == (rate, batch, batch * steps)
    assert (recipe.network.dropout, recipe.training.flip, recipe.process.variance) == (dropout, flip, variance)
    process = recipe.process
    assert (process.schedule, process.steps, process.beta_start, process.beta_end) == ("linear", 1000, 1e-4, 0.02)
    training = recipe.training
    assert (training.warmup_images, training.clip_norm) == (5000 * batch, 1.0)
    assert (training.ema_decay, training.ema_ramp) == (0.9999, False)
    assert (recipe.objective.prediction, recipe.precision) == ("eps", "float32")
    network, large = recipe.network, name != "cifar10"
    assert network.multipliers == ((1, 1, 2, 2, 4, 4) if large else (1, 2, 2, 2))
    assert (network.channels, network.blocks, network.groups, network.space_to_depth) == (width, 2, 32, 1)
    assert network.attention_levels == ((4,) if large else (1,))
    assert recipe.geometry.shape == ((3, 256, 256) if large else (3, 32, 32))
    with torch.device("meta"):
        assert sum(p.numel() for p in build_network(recipe).parameters()) == parameters


@pytest.mark.parametrize(("name", "limit"), [("digits", 0.02e9), ("fashion-mnist", 0.11e9)])
def test_the_recipes_for_two_cores_stay_within_their_arithmetic(name: str, limit: float):
    """Two operations a multiply-add, of convolutions, dense layers and attention, for one call on one image."""
    recipe = resolved(name)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_network(recipe)(torch.zeros(1, *recipe.geometry.shape), torch.zeros(1, device="cpu"))
    assert 0 < counter.get_total_flops() <= limit


# ---- what comes from the data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small", "standard"])
@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 8, 64), (3, 32, 32), (4, 48, 24)])
@pytest.mark.parametrize("classes", [0, 1, 2, 10])
def test_small_and_standard_take_geometry_channels_and_classes_from_the_data(name: str, shape, classes: int):
    recipe = resolve(load_recipe(name), Geometry(*shape), classes)
    assert recipe.geometry.shape == shape
    assert recipe.network.classes == (classes if classes > 1 else 0)
    side = min(shape[1:]) // recipe.network.space_to_depth
    sides = [side // 2**level for level in range(len(recipe.network.multipliers))]
    assert recipe.network.attention_levels == tuple(k for k, s in enumerate(sides) if s <= 16)[:1]


@pytest.mark.parametrize("name", ["small", "standard"])
def test_a_recipe_without_geometry_says_how_to_give_it(name: str):
    with pytest.raises(InputError, match=r"--data.*--set image\.channels="):
        _ = load_recipe(name).geometry


def test_data_of_another_shape_than_the_recipes_is_refused_by_name():
    with pytest.raises(InputError, match="channels 3, the data has 1"):
        resolve(load_recipe("cifar10"), Geometry(1, 32, 32), 0)
    with pytest.raises(InputError, match="height 32, the data has 64"):
        resolve(load_recipe("cifar10"), Geometry(3, 64, 32), 0)
    with pytest.raises(InputError, match=r"network\.classes = 5, the data has 10"):
        resolve(load_recipe("small", {"network": {"classes": 5}}), Geometry(3, 32, 32), 10)


@pytest.mark.parametrize("size", [(28, 28), (30, 45), (1, 3), (12, 100), (31, 33)])
def test_a_size_that_does_not_divide_is_refused_with_one_that_does(size: tuple[int, int]):
    """The offer is taken: the recipe resolves with it, and no side moves by more than half a step (or to the least)."""
    recipe = load_recipe("standard")
    with pytest.raises(InputError, match=r"--size \d+x\d+") as caught:
        resolve(recipe, Geometry(3, *size), 0)
    offered = str(caught.value).split("--size ")[1].rstrip(".")
    height, width = map(int, offered.split("x"))
    assert all(abs(new - old) <= 4 or new == 8 for new, old in zip((height, width), size, strict=True))
    sized = load_recipe("standard", {"size": offered})
    assert resolve(sized, Geometry(3, height, width), 0).geometry.size == (height, width)


# ---- counts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [("300k", 300_000), ("2M", 2_000_000), ("1.5M", 1_500_000), ("2.5k", 2_500), ("40000", 40_000), (40_000, 40_000),
     (" 3 M ", 3_000_000), ("1_000", 1_000), ("102.4M", 102_400_000), ("2.3M", 2_300_000), ("0.007k", 7)],
)  # fmt: skip
def test_counts_are_numbers_or_thousands_or_millions(text: str | int, count: int):
    assert make_recipe({"train_images": text}).train_images == count


@pytest.mark.parametrize(
    "text", ["", "k", "many", "1.5", "1.0001k", "-3k", "0", "3G", "nan", "inf", "infM", "1k k", 1.5, True]
)
def test_what_is_no_count_is_refused_by_key(text: object):
    assert "train_images" in refusal({"train_images": text})


def test_a_decimal_comma_is_not_skipped():
    """ "1,5M" is one and a half million to half of Europe and must not become fifteen million."""
    assert "train_images" in refusal({"train_images": "1,5M"})


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "key", "valid"),
    [
        ({"train_image": 5}, "train_image", "train_images"),
        ({"learningrate": 1e-3}, "learningrate", "learning_rate"),
        ({"network": {"chanels": 5}}, "network.chanels", "channels"),
        ({"training": {"warmup": 5}}, "training.warmup", "warmup_images"),
        ({"process": {"beta_max": 0.1}}, "process.beta_max", "beta_"),
        ({"netwrok": {"channels": 5}}, "netwrok", "network"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_valid_one(table: dict[str, Any], key: str, valid: str):
    text = refusal(table)
    assert f"'{key}'" in text
    assert f"did you mean '{key.rpartition('.')[0] + '.' if '.' in key else ''}{valid}" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", "many"), ("batch_size", 0), ("batch_size", 2.5), ("learning_rate", "fast"), ("learning_rate", 0),
        ("learning_rate", float("nan")), ("learning_rate", float("inf")), ("seed", "lucky"), ("seed", 0.5), ("data", 3),
        ("precision", "float16"), ("fit", "stretch"), ("on_bad_image", "ignore"), ("network", 5), ("network", [1]),
        ("network.channels", 0), ("network.multipliers", []), ("network.multipliers", [1, 0]), ("network.dropout", 1.0),
        ("network.multipliers", "wide"), ("network.attention_levels", [-1]), ("network.groups", 24),
        ("network.attention_levels", [4]), ("image.channels", 5),
        ("image.channels", 0), ("image.height", -8), ("process.schedule", "linaer"),
        ("process.beta_start", 0.5), ("process.beta_end", 1.0), ("process.variance", OPTIMAL), ("process.steps", 0),
        ("objective.loss", "vlb"), ("objective.levels", "stratified"), ("objective.weighting", "p2"),
        ("objective.level_mean", float("inf")), ("objective.level_std", 0), ("validation", 3),
        ("training.validate_images", 0), ("training.validation_calls", 0), ("training.validation_calls", "some"),
        ("objective.prediction", "score"), ("training.clip_norm", 0), ("training.ema_decay", 1.0), ("size", "big"),
        ("training.flip", "perhaps"), ("training.log_images", 0),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_the_name_of_its_key(key: str, value: object):
    *tables, last = key.split(".")
    assert last in refusal({tables[0]: {last: value}} if tables else {last: value})


@pytest.mark.parametrize("seed", [2**64, -(2**70)])
def test_a_seed_that_pytorch_cannot_take_is_refused_by_name(seed: int):
    assert "seed" in refusal({"seed": seed})


def test_every_choice_of_every_list_is_accepted():
    """Learned variances with a loss that trains them, and losses with a variance that they can train."""
    for schedule in BETAS:
        assert make_recipe({"process": {"schedule": schedule}}).process.schedule == schedule
    for key, choices in (("prediction", PREDICTIONS), ("levels", LEVEL_SAMPLING), ("weighting", WEIGHTINGS)):
        for choice in choices:
            assert getattr(make_recipe({"objective": {key: choice}}).objective, key) == choice
    for variance in (*VARIANCES, *LEARNED):
        table = {"process": {"variance": variance}, "objective": {"loss": "bound"}}
        assert make_recipe(table).process.variance == variance
    for loss in LOSSES:
        table = {"process": {"variance": "range" if loss == "hybrid" else "large"}, "objective": {"loss": loss}}
        assert make_recipe(table).objective.loss == loss


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_bound_takes_no_weights_but_its_own(weighting: str):
    table = {"objective": {"loss": "bound", "weighting": weighting}}
    if weighting == "none":
        make_recipe(table)
    else:
        assert f'set objective.weighting to "none", not "{weighting}"' in refusal(table)


@pytest.mark.parametrize("levels", LEVEL_SAMPLING)
def test_the_bound_sums_over_all_levels_alike(levels: str):
    table = {"objective": {"loss": "bound", "levels": levels}}
    if levels == "log-normal":
        assert 'set objective.levels to "uniform" or "importance", not "log-normal"' in refusal(table)
    else:
        make_recipe(table)


@pytest.mark.parametrize(("loss", "variance"), [*itertools.product(LOSSES, (*VARIANCES, *LEARNED))])
def test_a_learned_variance_and_a_loss_that_trains_it_need_each_other(loss: str, variance: str):
    """L_simple trains none and the hybrid must train one; the bound takes all. What is offered instead is accepted."""
    table = {"process": {"variance": variance}, "objective": {"loss": loss}}
    if (loss == "simple" and variance in LEARNED) or (loss == "hybrid" and variance in VARIANCES):
        text = refusal(table)
        assert f'objective.loss = "{loss}"' in text
        assert f'process.variance = "{variance}"' in text
        if loss == "simple":
            for other in ("bound", "hybrid"):
                assert f'"{other}"' in text
                make_recipe(table | {"objective": {"loss": other}})
        else:
            assert '"range"' in text
            make_recipe(table | {"process": {"variance": "range"}})
        with pytest.raises(InputError, match=f'"{loss}"'):  # also when a valid recipe is changed into it
            changed(make_recipe({}), table)
    else:
        assert make_recipe(table).process.variance == variance


@pytest.mark.parametrize("variance", [*VARIANCES, *LEARNED])
def test_networks_of_learned_variances_have_twice_the_channels(variance: str):
    table = {"process": {"variance": variance}, "objective": {"loss": "bound"}}
    recipe = resolve(load_recipe("small", table), Geometry(3, 16, 16), 0)
    with torch.device("meta"):
        assert build_network(recipe).conv_out.out_channels == (
            (6 if variance in LEARNED else 3) * recipe.network.space_to_depth**2
        )


def test_keys_of_earlier_versions_are_read_alone_or_as_changes_and_written_by_their_names_of_today():
    """The EMA's keys were called average_decay and average_ramp."""
    old = {"average_decay": 0.5, "average_ramp": False}
    for found in (
        make_recipe({"training": old}),
        load_recipe("cifar10", {"training": old | {"average_ramp": False}}),
        changed(make_recipe({"training": {"ema_decay": 0.9}}), {"training": old}),
    ):
        assert (found.training.ema_decay, found.training.ema_ramp) == (0.5, False)
        assert not old.keys() & found.model_dump()["training"].keys()
    assert "ema_decay" in refusal({"training": {"average_decay": 1.0}})


def test_validation_is_left_out_unless_it_is_named():
    recipe = make_recipe({"validation": "digits:test", "training": {"validate_images": "50k", "validation_calls": 512}})
    assert (recipe.validation, recipe.training.validate_images, recipe.training.validation_calls) == (
        "digits:test",
        50_000,
        512,
    )
    assert Recipe().validation is None


def test_an_unknown_recipe_is_refused_with_the_nearest_and_all_that_there_are():
    with pytest.raises(InputError, match=r"did you mean 'cifar10'\?") as caught:
        load_recipe("cifar-10")
    assert all(name in str(caught.value) for name in recipe_names())


@pytest.mark.parametrize(
    "content", [None, b"train_images = = 3", b'data = "gr\xf6\xdfe"', b"\x89PNG\r\n", b"train_images = 0"]
)
def test_a_recipe_file_that_cannot_be_used_is_named(content: bytes | None, tmp_path: Path):
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"mine\.toml"):
        load_recipe(str(path))


def test_a_recipe_file_with_changes_is_the_file_changed(tmp_path: Path):
    (tmp_path / "mine.toml").write_text('train_images = "2k"\n[network]\nchannels = 32\nblocks = 1\n')
    recipe = load_recipe(str(tmp_path / "mine.toml"), {"network": {"channels": 64}})
    assert (recipe.train_images, recipe.network.channels, recipe.network.blocks) == (2000, 64, 1)
    assert changed(recipe, {"seed": 4}) == recipe.model_copy(update={"seed": 4})


# ---- what no machine holds ------------------------------------------------------------------------------------------


HUGE = 10**5000  # Python writes no number of so many digits
TOO_LARGE: list[tuple[dict[str, Any], str]] = [
    ({"network": {"channels": 60_000}}, "network.channels"),
    ({"network": {"channels": 16_384}}, "parameters"),
    ({"network": {"multipliers": [1024, 1024]}}, "parameters"),
    ({"network": {"multipliers": [1] * 100}}, "network.multipliers"),
    ({"network": {"blocks": 10**9}}, "network.blocks"),
    ({"network": {"attention_levels": list(range(10**4))}}, "network.attention_levels"),
    ({"network": {"classes": 10**9}}, "network.classes"),
    ({"network": {"space_to_depth": 10**9}}, "network.space_to_depth"),
    ({"network": {"groups": 10**9}}, "network.groups"),
    ({"network": {"linear": "alone"}, "image": {"height": 2**16, "width": 1}}, "8,192 pixels a side"),
    ({"process": {"steps": 10**9}}, "process.steps"),
    ({"size": "1000000000x1000000000"}, "67,108,864 pixels"),
    ({"image": {"height": 10**9}}, "image.height"),
    ({"image": {"height": 2**14, "width": 2**14}}, "67,108,864 pixels"),
    ({"image": {"height": 2**13, "width": 2**13}, "network": {"channels": 1024}}, "values inside this network"),
    ({"batch_size": 10**9}, "batch_size"),
    ({"learning_rate": 1e38}, "learning_rate"),
    ({"training": {"clip_norm": 1e308}}, "training.clip_norm"),
    ({"training": {"validation_calls": 10**12}}, "training.validation_calls"),
    ({"training": {"warmup_images": 10**30}}, "training.warmup_images"),
    ({"train_images": HUGE}, "train_images"),
    ({"train_images": "9" * 5000}, "train_images"),
    ({"train_images": "1" + ",000" * 2000}, "train_images"),
    ({"train_images": "0." + "1" * 5000}, "train_images"),
    ({"seed": HUGE}, "seed"),
    ({"network": {"multipliers": [HUGE]}}, "network.multipliers"),
    ({"process": {"beta_end": HUGE}}, "process.beta_end"),
]


@pytest.mark.parametrize(("table", "words"), TOO_LARGE, ids=lambda value: value if isinstance(value, str) else "")
def test_what_no_machine_holds_is_refused_by_name_before_anything_is_allocated(table: dict[str, Any], words: str):
    tracemalloc.start()
    try:
        assert words in refusal(table)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_a_batch_that_no_device_holds_is_refused_before_a_run_begins_and_not_when_a_model_is_read():
    recipe = load_recipe("standard", {"batch_size": 65_536})
    with pytest.raises(InputError, match=r"a batch of 65,536 images becomes about [\d,]+ values.*smaller batch_size"):
        resolve(recipe, Geometry(3, 32, 32), 0)
    assert make_recipe(recipe.model_dump() | {"image": {"channels": 3, "height": 32, "width": 32}}).batch_size == 65_536


def test_tables_within_tables_are_refused_whatever_their_depth():
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"network": deep}
    for table in (deep, {"network": deep}, {"training": {"flip": deep}}):
        assert refusal(table)


@pytest.mark.parametrize(
    "content",
    [
        b"train_images = " + b"9" * 5000,
        b"data = " + b"[" * 100_000,
        b"a" + b".a" * 50_000 + b" = 1",
        b"network.channels = 60_000",
    ],
    ids=["5,000 digits", "lists in lists", "tables in tables", "60,000 channels"],
)
def test_a_recipe_file_with_numbers_or_depths_beyond_all_is_named(content: bytes, tmp_path: Path):
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(InputError, match=r"mine\.toml"):
        load_recipe(str(tmp_path / "mine.toml"))


def test_a_recipe_that_is_a_folder_is_named(tmp_path: Path):
    (tmp_path / "mine.toml").mkdir()
    with pytest.raises(InputError, match=r"mine\.toml"):
        load_recipe(str(tmp_path / "mine.toml"))
