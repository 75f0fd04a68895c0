"""Training removes old checkpoints, but none that .dpc files need; those go when `ddpm prune` is told to."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import ddpm
from ddpm.base.files import only_process
from ddpm.codec.codec_data import SIDECAR as CODEC
from ddpm.errors import InputError
from ddpm.model import timesteps, variances
from ddpm.model.checkpoint import checkpoints
from ddpm.model.pruning import forget_checkpoints, prune
from ddpm.model.recipe import make_recipe
from ddpm.model.sidecar import fingerprint
from ddpm.training.loop import train
from scorings import RECIPE, Of, image_set, merged, pixels

IMAGES = image_set(pixels(20, (1, 4, 4)))
NAMES = ["0000000009", "0000000010", "0000000100", "0000001000"]


def folders(run: Path, *names: str) -> list[Path]:
    """Checkpoints with nothing in them."""
    found = [run / "checkpoints" / name for name in names]
    for folder in found:
        folder.mkdir(parents=True)
    return found


def left(run: Path) -> list[str]:
    return sorted(entry.name for entry in (run / "checkpoints").iterdir())


def coded(folder: Path, weights: str = "ema", **table: object) -> str:
    """Put codec data beside a checkpoint; their fingerprint."""
    found = fingerprint(CODEC.write(Of(str(folder), weights), table))
    assert found is not None
    return found


# ---- what training removes ------------------------------------------------------------------------------------------


def test_pruning_keeps_the_two_newest_and_removes_what_was_left_behind(tmp_path: Path):
    folders(tmp_path, *NAMES, ".unfinished-2000")
    (tmp_path / "checkpoints" / ".unfinished-2000" / "model.safetensors").write_bytes(b"half")
    prune(tmp_path)
    assert left(tmp_path) == NAMES[2:]


@pytest.mark.parametrize("state", ["averaged", "raw", "damaged", "being made"])
def test_a_checkpoint_with_codec_data_is_kept(state: str, tmp_path: Path):
    first, second, *_ = folders(tmp_path, *NAMES)
    if state == "being made":
        with CODEC.lock(Of(str(second))):
            prune(tmp_path)
        assert left(tmp_path) == NAMES[1:]
        prune(tmp_path)
        assert left(tmp_path) == NAMES[2:]
        return
    coded(second, "raw" if state == "raw" else "ema")
    if state == "damaged":
        CODEC.path(Of(str(second))).write_bytes(b"{")
    prune(tmp_path)
    assert (left(tmp_path), first.exists()) == (NAMES[1:], False)


@pytest.mark.parametrize("sidecar", [timesteps.SIDECAR, variances.SIDECAR])
def test_other_side_files_keep_no_checkpoint(sidecar, tmp_path: Path):
    first, *_ = folders(tmp_path, *NAMES)
    sidecar.write(Of(str(first)), {})
    prune(tmp_path)
    assert left(tmp_path) == NAMES[2:]


def test_training_that_goes_on_keeps_the_checkpoint_that_dpc_files_need(tmp_path: Path):
    for images in (8, 32):
        changes = {"train_images": images, "training": {"checkpoint_images": 8, "log_images": 8}}
        train(make_recipe(merged(RECIPE, changes)), IMAGES, tmp_path)
        if images == 8:
            coded(tmp_path / "checkpoints" / "0000000008")
    assert left(tmp_path) == ["0000000008", "0000000024", "0000000032"]


def test_going_back_leaves_what_dpc_files_need_under_another_name(tmp_path: Path):
    _, second, third, _ = folders(tmp_path, *NAMES)
    coded(second)
    coded(third)
    forget_checkpoints(tmp_path, 10)
    assert left(tmp_path) == ["0000000009", "0000000010", "left-0000000100"]
    assert checkpoints(tmp_path)[-1] == second
    (again,) = folders(tmp_path, NAMES[2])
    coded(again)
    forget_checkpoints(tmp_path, 10)
    kept = ["left-0000000100", "left-0000000100-2"]
    assert left(tmp_path)[2:] == kept
    prune(tmp_path)
    assert left(tmp_path)[2:] == kept
    assert [(Path(row.checkpoint).name, row.removed) for row in ddpm.prune(tmp_path).checkpoints] == [
        (name, False) for name in kept
    ]
    assert ddpm.prune(tmp_path, [kept[0]]).left == 3
    assert [row.removed for row in ddpm.prune(tmp_path, codec=True).checkpoints] == [True]


# ---- what ddpm prune removes ----------------------------------------------------------------------------------------


def test_prune_says_what_it_removes_and_what_it_keeps_and_why(tmp_path: Path):
    first, second, *_ = folders(tmp_path, *NAMES)
    needed = coded(second)
    report = ddpm.prune(tmp_path)
    assert [(row.checkpoint, row.removed) for row in report.checkpoints] == [(str(first), True), (str(second), False)]
    assert f"fingerprint {needed}" in report.checkpoints[1].why
    assert (left(tmp_path), report.left) == (NAMES[1:], 3)
    assert report.lines() == [
        f"removed  {first}: older than the newest 2, without codec data",
        f"kept  {second}: .dpc files with fingerprint {needed} need it",
        "1 removed, 3 left",
    ]
    again = ddpm.prune(tmp_path)
    assert [row.removed for row in again.checkpoints] == [False]


def test_prune_removes_codec_data_only_when_told_and_names_what_needed_them(tmp_path: Path):
    first, _, third, newest = folders(tmp_path, *NAMES)
    prints = [coded(first, "ema"), coded(first, "raw", more=1)]
    coded(third)
    coded(newest)
    report = ddpm.prune(tmp_path, codec=True)
    assert left(tmp_path) == NAMES[2:]
    assert report.checkpoints[0].why == f".dpc files with fingerprint {' or '.join(prints)} need it"


@pytest.mark.parametrize("name", ["0000000100", "100", "path"])
def test_named_checkpoints_alone_are_removed_whatever_lies_beside_them(name: str, tmp_path: Path):
    found = folders(tmp_path, *NAMES)
    coded(found[2])
    report = ddpm.prune(tmp_path, [str(found[2]) if name == "path" else name])
    assert [(row.checkpoint, row.removed) for row in report.checkpoints] == [(str(found[2]), True)]
    assert left(tmp_path) == [NAMES[0], NAMES[1], NAMES[3]]


@pytest.mark.parametrize(
    ("names", "words"), [(["9", "1000"], "newest"), (["9", "11"], "'11'"), (["9", "nine"], "'nine'"), ([""], "''")]
)
def test_the_newest_and_unknown_ones_are_refused_before_any_is_removed(names: list[str], words: str, tmp_path: Path):
    folders(tmp_path, *NAMES)
    with pytest.raises(InputError, match=words):
        ddpm.prune(tmp_path, names)
    assert left(tmp_path) == NAMES


def test_no_run_is_refused_and_nothing_is_made(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty", "linear"):
        with pytest.raises(InputError, match=name):
            ddpm.prune(tmp_path / name)
    assert [entry.name for entry in tmp_path.rglob("*")] == ["empty"]


def test_a_run_that_another_process_writes_to_is_left_alone(tmp_path: Path):
    folders(tmp_path, *NAMES)
    with only_process(tmp_path), pytest.raises(InputError, match="another process"):
        ddpm.prune(tmp_path)
    assert left(tmp_path) == NAMES


def test_what_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folders(tmp_path, *NAMES)

    def refuse(*given: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    for where in ("os.rename", "remove_tree"):
        with monkeypatch.context() as patch:
            patch.setattr(f"ddpm.model.pruning.{where}", refuse)
            with pytest.raises(InputError, match="could not be removed: Permission denied"):
                ddpm.prune(tmp_path)
