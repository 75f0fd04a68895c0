"""A run folder holds one run: another one is refused and changes nothing, trouble leaves the last good checkpoint."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if not hasattr(os, "fork"):
    pytest.skip("fork is needed", allow_module_level=True)

import torch
from crashing import Ended, differences, losses, metrics, nursery, saved, snapshot, train_command, unfinished
from safetensors.torch import load_file

import ddpm

# A network as small as there is: 3 steps, 3 checkpoints.
SMALL: dict[str, Any] = {
    "train_images": 36,
    "network": {"channels": 4, "groups": 2, "multipliers": [1]},
    "process": {"steps": 2},
    "training": {"log_images": 12, "checkpoint_images": 12, "sample_images": 1000, "warmup_images": 30},
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {key: merged(base[key], changes[key]) for key in base.keys() & changes.keys() if isinstance(base[key], dict)}
    return base | changes | both


def train(run: Path, **changes: Any) -> Ended:
    """`ddpm train` of SMALL with changes."""
    return nursery().run(train_command(run.name, **merged(SMALL, changes)), cwd=run.parent)


def refused(ended: Ended, code: int = 2) -> str:
    """The one sentence that a refusal says."""
    assert "Traceback" not in ended.err, ended.err.strip().splitlines()[-1]
    assert ended.code == code, ended
    said = [line for line in ended.err.splitlines() if line.startswith("ddpm: ")]
    assert len(said) == 1, ended.err
    return said[0]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run that a test may do with as it likes."""
    shutil.copytree(nursery().reference(**SMALL), tmp_path / "run")
    return tmp_path / "run"


# ---- the same run, another run --------------------------------------------------------------------------------------

OTHERS = [
    ("seed", 5, 6),
    ("batch_size", 12, 13),
    ("learning_rate", 0.001, 0.002),
    ("network.channels", 4, 8),
    ("network.dropout", 0.1, 0.2),
    ("process.schedule", "linear", "cosine"),
    ("objective.prediction", "eps", "v"),
    ("training.flip", True, False),
    ("training.ema_decay", 0.9999, 0.5),
    ("precision", "float32", "bfloat16"),
]
LASTING = ("network.channels", "process.schedule", "objective.prediction")


@pytest.mark.parametrize(("key", "old", "new"), OTHERS, ids=[key for key, _, _ in OTHERS])
def test_another_recipe_is_refused_with_the_key_and_both_values(key: str, old: Any, new: Any, run: Path):
    before = snapshot(run)
    *table, name = key.split(".")
    sentence = refused(train(run, **({table[0]: {name: new}} if table else {name: new})))
    assert key in sentence
    assert f"= {old}," in sentence
    assert f"not {new};" in sentence
    assert ("--allow-change" in sentence) == (key not in LASTING)
    assert snapshot(run) == before


def test_a_larger_train_images_continues_and_a_smaller_one_is_refused(run: Path):
    before = snapshot(run)
    sentence = refused(train(run, train_images=24))
    assert "train_images" in sentence
    assert "36" in sentence
    assert "24" in sentence
    assert snapshot(run) == before
    assert train(run, train_images=60).resumed_at == 36
    assert differences(run, nursery().reference(**merged(SMALL, {"train_images": 60}))) == []


def test_changed_data_is_refused_by_name(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), np.uint8)
    np.save(tmp_path / "images.npy", images)
    run, changes = tmp_path / "run", {"data": "images.npy", "network": {"classes": 0}}
    assert train(run, **changes).code == 0
    before = snapshot(run)
    images[17, 3, 3] ^= 1
    np.save(tmp_path / "images.npy", images)
    assert "images.npy" in refused(train(run, **changes, train_images=60))
    assert snapshot(run) == before


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/0000000012/model.safetensors"])
def test_a_folder_that_holds_something_else_is_refused_and_left_alone(name: str, tmp_path: Path):
    run = tmp_path / "run"
    (run / name).parent.mkdir(parents=True)
    (run / name).write_text("mine", encoding="utf-8")
    before = snapshot(run)
    assert "'run' is not empty" in refused(train(run))
    assert snapshot(run) == before


def test_an_empty_folder_is_taken(tmp_path: Path):
    (tmp_path / "run").mkdir()
    assert train(tmp_path / "run").code == 0
    assert differences(tmp_path / "run", nursery().reference(**SMALL)) == []


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_out_that_is_a_file_or_below_one_is_refused_in_one_sentence(out: str, tmp_path: Path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    ended = nursery().run(train_command(out, **SMALL), cwd=tmp_path)
    assert "'file" in refused(ended)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_device_that_is_not_there_leaves_no_folder_that_then_refuses_the_right_one(tmp_path: Path):
    assert "nonsense" in refused(train(tmp_path / "run", device="nonsense"))
    assert not (tmp_path / "run").exists()
    assert train(tmp_path / "run", device="cpu").code == 0


# ---- what lies in it ------------------------------------------------------------------------------------------------


def test_two_checkpoints_are_kept_and_nothing_unfinished(run: Path):
    assert [int(path.name) for path in saved(run)] == [24, 36]
    assert unfinished(run) == []
    assert {path.name for path in run.iterdir() if path.name != ".lock"} == {
        "checkpoints",
        "loss.png",
        "metrics.jsonl",
        "recipe.json",
        "samples",
    }
    assert [line["images"] for line in metrics(run)] == [12, 24, 36]


def test_a_metrics_line_that_a_crash_cut_is_repaired(run: Path):
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(whole + b'{"images": 48, "lo')
    assert train(run, train_images=60).code == 0
    assert differences(run, nursery().reference(**merged(SMALL, {"train_images": 60}))) == []


@pytest.mark.parametrize(
    "damage",
    [b"not JSON\n%s", b"%s\xff\xfe", b"\0\0\0\0\n%s", b"5\n%s", b"{}\n%s"],
    ids=["a foreign line", "bytes that are no text", "zeros of a file system", "a number", "an empty object"],
)
def test_damaged_metrics_are_no_traceback(damage: bytes, run: Path):
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(damage.replace(b"%s", whole))
    ended = train(run, train_images=60)
    assert "Traceback" not in ended.err, ended.err.splitlines()[-1]
    if ended.code != 0:  # both are fine: to leave the line out, or to name the file
        assert "metrics.jsonl" in refused(ended, code=4)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"recipe": 3}', '{"recipe": {"seed": "x"}}'])
def test_a_damaged_recipe_file_is_refused_by_name(text: str, run: Path):
    (run / "recipe.json").write_text(text, encoding="utf-8")
    before = snapshot(run)
    assert "recipe.json" in refused(train(run), code=4)
    assert snapshot(run) == before


def test_a_picture_of_the_users_own_among_the_grids_stays(run: Path):
    (run / "samples" / "mine.png").write_bytes(b"a picture")
    ended = train(run, train_images=60)
    assert ended.code == 0, ended.err.splitlines()[-1]
    assert (run / "samples" / "mine.png").read_bytes() == b"a picture"


# ---- checkpoints that cannot be continued ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "config.json"])
def test_a_damaged_newest_checkpoint_is_refused_by_name_and_the_one_before_goes_on_in_its_place(name: str, run: Path):
    file = saved(run)[-1] / name
    file.write_bytes(file.read_bytes()[:-9])
    before = snapshot(run)
    sentence = refused(train(run, train_images=60), code=4)
    assert name in sentence
    changed = [path for path, told in snapshot(run).items() if told != before.get(path)]
    shutil.rmtree(saved(run)[-1])
    assert train(run, train_images=60).resumed_at == 24
    assert differences(run, nursery().reference(**merged(SMALL, {"train_images": 60}))) == []
    assert changed == []  # a longer recipe.json would refuse the command that the folder was made by


def test_a_checkpoint_without_training_state_is_not_continued(run: Path):
    newest = saved(run)[-1]
    from ddpm.model.checkpoint import read_config, read_weights, write_checkpoint

    config = read_config(newest)
    held = {kind: read_weights(newest, config, kind) for kind in ("ema", "raw")}
    shutil.rmtree(newest)
    write_checkpoint(newest, recipe=config.recipe, weights=held, class_names=config.class_names, images_seen=36)
    assert "no training state" in refused(train(run, train_images=60))
    assert ddpm.load(run).images_seen == 36


# ---- a loss that is no number ---------------------------------------------------------------------------------------


def finite(checkpoint: Path) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in load_file(checkpoint / "model.safetensors").values())


@pytest.mark.parametrize("rate", [1e5, 1e10, 1e37])
def test_an_absurd_learning_rate_stops_with_the_image_count_and_keeps_the_last_good_checkpoint(
    rate: float, tmp_path: Path
):
    run = tmp_path / "run"
    absurd = {"learning_rate": rate, "train_images": 1200, "training": {"warmup_images": 0}}
    ended = train(run, **absurd)
    sentence = refused(ended)
    assert re.search(r"\d+ images", sentence)
    assert "learning_rate" in sentence
    assert saved(run), "no checkpoint is left"
    assert all(finite(path) for path in saved(run))
    assert all(loss is None or np.isfinite(loss) for _, loss, _ in losses(run))
    assert ddpm.load(run).images_seen == int(saved(run)[-1].name)


def test_weights_that_are_no_numbers_never_become_a_checkpoint(tmp_path: Path):
    """At this rate the gradient overflows in a step whose loss is still a number, about 1e21."""
    run = tmp_path / "run"
    ended = train(run, learning_rate=3e4, train_images=1200, training={"warmup_images": 0})
    refused(ended)
    assert saved(run)
    assert [path.name for path in saved(run) if not finite(path)] == []


def test_a_learning_rate_beyond_float32_is_no_traceback(tmp_path: Path):
    assert "learning_rate" in refused(train(tmp_path / "run", learning_rate=1e39))


def test_the_advice_after_a_diverged_run_can_be_followed(tmp_path: Path):
    """Weights of 1e10 were saved while the loss was a number: only a new run helps, and the sentence offers one."""
    absurd = {"learning_rate": 1e10, "train_images": 600, "training": {"warmup_images": 0}}
    assert "a learning_rate below 5e+09, in a new --out" in refused(train(tmp_path / "run", **absurd))
    assert train(tmp_path / "new", **absurd | {"learning_rate": 1e-3, "train_images": 36}).code == 0


# ---- a full disk, two processes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.5, 1.3], ids=["in the weights", "in the training state"])
def test_a_disk_that_is_full_is_one_sentence_and_leaves_the_old_checkpoint(share: float, run: Path):
    """A limit on the size of files makes the write itself fail, below Python. training.pt is the largest file."""
    before = {path: text for path, text in snapshot(run / "checkpoints").items()}
    limit = int(share * (saved(run)[-1] / "model.safetensors").stat().st_size)
    command = train_command("run", **merged(SMALL, {"train_images": 60}))
    ended = nursery().run(command, cwd=run.parent, file_bytes=limit)
    assert snapshot(run / "checkpoints").items() >= before.items()
    assert ddpm.load(run).images_seen == 36
    # With room again it goes on, whatever was said.
    assert train(run, train_images=60).resumed_at == 36
    assert differences(run, nursery().reference(**merged(SMALL, {"train_images": 60}))) == []
    assert "checkpoints" in refused(ended)


def test_what_could_not_be_written_does_not_fill_the_disk_further(run: Path):
    limit = (saved(run)[-1] / "model.safetensors").stat().st_size * 13 // 10
    command = train_command("run", **merged(SMALL, {"train_images": 60}))
    assert nursery().run(command, cwd=run.parent, file_bytes=limit).code != 0
    assert unfinished(run) == []


def test_a_second_process_on_the_same_run_is_refused_and_the_first_ends_unharmed(tmp_path: Path):
    """Two terminals, or a job that a scheduler starts twice: they would remove each other's checkpoints."""
    run, changes = tmp_path / "run", merged(SMALL, {"train_images": 120})
    first = nursery().start(train_command("run", **changes), cwd=tmp_path, pace=0.02)
    first.wait_until(lambda: len(metrics(run)) >= 2)
    second = train(run, train_images=120)
    ended = first.end()
    assert ended.code == 0, ended.err.splitlines()[-1]
    assert differences(run, nursery().reference(**changes)) == []
    assert "run" in refused(second)


def test_a_killed_process_keeps_nobody_out(tmp_path: Path):
    """Guards the test above against a lock that outlives its owner."""
    run, changes = tmp_path / "run", merged(SMALL, {"train_images": 120})
    first = nursery().start(train_command("run", **changes), cwd=tmp_path, pace=0.02)
    first.wait_until(lambda: len(metrics(run)) >= 2)
    first.send(signal.SIGKILL)
    first.end()
    assert train(run, train_images=120).code == 0
    assert differences(run, nursery().reference(**changes)) == []


def test_progress_is_told_in_recipe_units(run: Path):
    """The run says what it holds: images seen in config.json, the recipe file and the folder's name agree."""
    newest = saved(run)[-1]
    config = json.loads((newest / "config.json").read_text(encoding="utf-8"))
    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    assert config["images_seen"] == int(newest.name) == 36
    assert config["recipe"] == recipe["recipe"]
    assert config["data_fingerprint"] == recipe["data_fingerprint"]
