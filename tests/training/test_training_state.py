"""What a run goes on from is checked field by field: its training state, its recipe, and the lines of its logs."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddpm.base.tables import signed
from ddpm.errors import DamagedFile, DdpmError, InputError
from ddpm.model.checkpoint import CONFIG_FILE, TRAINING_FILE, checkpoints, read_config, read_weights, write_checkpoint
from ddpm.model.recipe import make_recipe
from ddpm.training.loop import train
from ddpm.training.run_folder import RunFolder
from scorings import RECIPE, Watching, edited, image_set, merged, pixels

CHANGES = {
    "train_images": 16,
    "objective": {"levels": "importance", "weighting": "uncertainty"},
    "process": {"steps": 4},
    "training": {"checkpoint_images": 1000, "sample_images": 10_000},
}
IMAGES = image_set(pixels(16, (1, 4, 4)))
State = dict[str, Any]


def moments(state: State, number: int = 0) -> dict[str, torch.Tensor]:
    return state["optimiser"]["state"][number]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A run of two steps, and its training state."""
    run = tmp_path_factory.mktemp("run") / "run"
    train(make_recipe(merged(RECIPE, CHANGES)), IMAGES, run)
    return run, (checkpoints(run)[-1] / TRAINING_FILE).read_bytes()


def with_state(whole: tuple[Path, bytes], change: Callable[[State], Any]) -> Path:
    """The run with its state changed, under a right hash."""
    run, content = whole
    folder = checkpoints(run)[-1]
    (folder / TRAINING_FILE).write_bytes(content)
    state = torch.load(folder / TRAINING_FILE, weights_only=True)
    found = change(state)
    torch.save(found if isinstance(found, list) else state, folder / TRAINING_FILE)
    table = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    del table["own_sha256"]
    table["sha256"][TRAINING_FILE] = hashlib.sha256((folder / TRAINING_FILE).read_bytes()).hexdigest()
    (folder / CONFIG_FILE).write_text(json.dumps(signed(table)), encoding="utf-8")
    return run


def go_on(run: Path) -> None:
    train(make_recipe(merged(RECIPE, CHANGES | {"train_images": 24})), IMAGES, run)


FIELDS: dict[str, Callable[[State], Any]] = {
    "not a training state": lambda state: [1],
    "images_seen": lambda state: state.update(images_seen="16"),
    "images_seen ": lambda state: state.update(images_seen=-16),
    "of others": lambda state: state.update(images_seen=8),
    "updates": lambda state: state.update(updates=1.5),
    "updates ": lambda state: state.pop("updates"),
    "losses": lambda state: state.update(losses=torch.zeros(2)),
    "losses.0": lambda state: state.update(losses=["1"]),
    "optimiser": lambda state: state.update(optimiser=None),
    "optimiser.state": lambda state: state["optimiser"].pop("state"),
    "optimiser.state.0.step": lambda state: moments(state).update(step=3),
    "optimiser.state.0.exp_avg": lambda state: moments(state).pop("exp_avg"),
    "not of this network": lambda state: moments(state).update(exp_avg=torch.zeros(2, 2)),
    "not of this network ": lambda state: moments(state).update(exp_avg=moments(state)["exp_avg"].int()),
    "not of this network  ": lambda state: state["optimiser"]["state"].update({10**6: moments(state)}),
    "not of this network   ": lambda state: moments(state).update(exp_avg=moments(state)["exp_avg"].to("meta")),
    "not of this network    ": lambda state: moments(state).update(exp_avg=moments(state)["exp_avg"].to_sparse()),
    "1 of the .* of exp_avg_sq of weight 3": lambda state: moments(state, 3)["exp_avg_sq"].view(-1)[0].fill_(math.nan),
    "values of exp_avg of weight 3": lambda state: moments(state, 3)["exp_avg"].fill_(math.inf),
    "negative": lambda state: moments(state)["exp_avg_sq"].view(-1)[0].fill_(-1.0),
    "negative ": lambda state: moments(state)["step"].fill_(-2.0),
    "history": lambda state: state.update(history=torch.zeros(3, 10, dtype=torch.float64)),
    "history ": lambda state: state.update(history=state["history"].float()),
    "history  ": lambda state: state.update(history=[1.0]),
    "uncertainty": lambda state: state.update(uncertainty=torch.zeros(3, dtype=torch.float64)),
    "uncertainty ": lambda state: state.update(uncertainty=state["uncertainty"] * math.nan),
    "uncertainty  ": lambda state: state.update(uncertainty=1.0),
}


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_is_checked_and_named(field: str, whole: tuple[Path, bytes]):
    run = with_state(whole, FIELDS[field])
    with pytest.raises(DamagedFile, match=rf"training\.pt'.*{field.strip()}.*without that folder"):
        go_on(run)


def test_the_optimisers_settings_come_from_the_recipe_and_not_from_the_file(whole: tuple[Path, bytes]):
    """A learning rate or a decay that was written into the file changes nothing."""
    run = with_state(whole, lambda state: state["optimiser"]["param_groups"][0].update(betas="none", weight_decay=1e9))
    go_on(run)
    assert checkpoints(run)[-1].name == f"{24:010d}"


# ---- the run folder's small files -----------------------------------------------------------------------------------


LINE = {"images": 8, "loss": 0.5, "learning_rate": 1e-3, "images_per_second": 10.0}
GARBAGE: list[object] = [
    "text",
    None,
    3,
    [LINE],
    {**LINE, "images": "8"},
    {**LINE, "images": -8},
    {**LINE, "images": 1.5},
    {**LINE, "images": None},
    {**LINE, "loss": "low"},
    {**LINE, "loss": {"value": 1}},
    {**LINE, "learning_rate": math.nan},
    {**LINE, "prediction_std": [1]},
    {**LINE, "gradient_norm": "abc"},
    {**LINE, "skipped": 3},
    {**LINE, "skipped": 3, "steps": 4, "not_finite": []},
    {**LINE, "skipped": 3, "steps": 4, "not_finite": [{"images": 8}]},
    {"images": 8},
]


@pytest.mark.parametrize("line", GARBAGE, ids=range(len(GARBAGE)))
def test_lines_of_a_log_that_are_none_are_left_out(line: object, tmp_path: Path):
    run = RunFolder(tmp_path)
    run.metrics.append(LINE)
    with run.metrics.file.open("ab") as file:
        file.write(json.dumps(line).encode() + b"\n" + b"[" * 100_000 + b"\n\xff\xfe\n" + b"9" * 5000 + b"\n")
    run.metrics.append({**LINE, "images": 16, "loss": None})
    assert [kept["images"] for kept in run.metrics.lines()] == [8, 16]
    run.forget_after(8)
    assert run.metrics.lines() == [LINE]
    run.plot_loss(run.metrics.lines())


TABLES: dict[str, Callable[[State], Any]] = {
    "recipe": lambda table: table.pop("recipe"),
    "recipe ": lambda table: table.update(recipe=[1]),
    "network": lambda table: table["recipe"].update(network=3),
    "process.steps": lambda table: table["recipe"]["process"].update(steps=10**9),
    "data_fingerprint": lambda table: table.pop("data_fingerprint"),
    "data_fingerprint ": lambda table: table.update(data_fingerprint=3),
}


@pytest.mark.parametrize("field", TABLES)
def test_each_field_of_a_runs_recipe_is_checked_under_a_right_hash(field: str, tmp_path: Path):
    recipe = make_recipe(merged(RECIPE, CHANGES))
    run = RunFolder(tmp_path)
    run.begin(recipe, IMAGES, 0)
    run.check(recipe, IMAGES)
    edited(run.recipe_file, TABLES[field])
    with pytest.raises(DdpmError, match=rf"recipe\.json'.*{field.strip()}"):
        run.check(recipe, IMAGES)


@pytest.mark.parametrize("content", [b"", b"null", b"\xff", b"[" * 100_000], ids=["empty", "null", "bytes", "deep"])
def test_a_runs_recipe_that_is_no_json_is_damage(content: bytes, tmp_path: Path):
    run = RunFolder(tmp_path)
    run.recipe_file.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"recipe\.json"):
        run.check(make_recipe(merged(RECIPE, CHANGES)), IMAGES)


def test_a_folder_in_the_place_of_a_runs_recipe_is_named(tmp_path: Path):
    (tmp_path / "recipe.json").mkdir()
    with pytest.raises(DdpmError, match=str(tmp_path)):
        RunFolder(tmp_path).check(make_recipe(merged(RECIPE, CHANGES)), IMAGES)


@pytest.mark.parametrize("name", ["checkpoints", "samples", "loss.png", "metrics.jsonl"])
def test_a_place_for_its_files_that_is_something_else_is_refused_before_a_step(name: str, tmp_path: Path):
    run = tmp_path / "run"
    if "." in name:
        (run / name).mkdir(parents=True)
    else:
        run.mkdir()
        (run / name).touch()
    with pytest.raises(InputError, match=rf"{name}' is a f"):
        RunFolder(run).check(make_recipe({}), image_set(pixels(2)))


def test_a_run_of_an_older_version_goes_on_with_todays_noise_and_says_so(tmp_path: Path):
    """Its state has no version of the noise, no norms and no faults; no losses of levels."""

    def aged(state: State) -> None:
        for key in ("noise", "norms", "faults"):
            del state[key]

    for change, times in ((aged, 1), (lambda state: None, 0)):
        run, heard = tmp_path / str(times), Watching()
        train(make_recipe(merged(RECIPE, CHANGES)), IMAGES, run)
        with_state((run, (checkpoints(run)[-1] / TRAINING_FILE).read_bytes()), change)
        train(make_recipe(merged(RECIPE, CHANGES | {"train_images": 24})), IMAGES, run, progress=heard)
        assert sum("began this run with other random numbers" in said for said in heard.sentences) == times


def test_a_model_without_its_training_says_that_it_cannot_be_continued(tmp_path: Path):
    """Models that are handed on have one kind of weights; that is not what is wrong with them."""
    train(make_recipe(merged(RECIPE, CHANGES)), IMAGES, tmp_path)
    folder = checkpoints(tmp_path)[-1]
    config = read_config(folder)
    weights = {"ema": read_weights(folder, config, "ema")}
    shutil.rmtree(folder)
    write_checkpoint(folder, recipe=config.recipe, weights=weights, images_seen=config.images_seen)
    with pytest.raises(InputError, match="can be sampled, not continued"):
        go_on(tmp_path)
