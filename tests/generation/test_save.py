"""Samples as files: what is refused before anything is drawn, and that what is announced is what is drawn."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from ddpm.base.image_io import save_grid
from ddpm.base.progress import Progress
from ddpm.errors import InputError
from ddpm.generation import draw as drawing
from ddpm.generation.draw import draw, draw_progressively, labels_for, plan_for
from ddpm.generation.image_folder import open_image_folder, protocol_of
from ddpm.generation.save import SLOTS, save_samples
from ddpm.model.model import Model
from ddpm.model.timesteps import TunedTimesteps, add_timesteps
from ddpm.samplers.plan import Sampling
from scorings import stored_model

FEW: dict[str, Any] = {"steps": 3, "sampler": "ddim"}


class Heard(Progress):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


@pytest.mark.parametrize(
    ("out", "options", "named"),
    [
        ("", {}, "''"),
        ("a.jpg", {}, "a.jpg"),
        ("a.PNG", {}, "a.PNG"),
        ("a.npz/", {}, "a.npz/"),
        ("a.png\\", {}, "a.png"),
        ("file", {}, "file"),
        ("file/a.png", {}, "file"),
        ("folder.png", {}, "folder.png"),
        ("folder.npz", {}, "folder.npz"),
        ("model", {}, "model"),
        ("images", {"progressive": True}, r"\.png"),
        ("a.npz", {"progressive": True}, r"\.png"),
        ("a.png", {"seeds": range(100_000_000 // 16 + 1)}, "choose a folder"),
        ("a.png", {"seeds": range(100_000_000 // 16 // SLOTS + 1), "progressive": True}, "choose a folder"),
        ("x" * 253 + ".png", {}, "shorter name"),
        ("new/" + "x" * 256, {}, "shorter name"),
        ("x" * 250 + ".npz", {}, "shorter name"),
        ("images", {"seeds": []}, "no seeds"),
        ("a.png", {"seeds": []}, "seeds"),
        ("a.png", {"batch_size": 0}, "batches of 0"),
        ("a.png", {"steps": 13}, "13 steps"),
        ("a.png", {"sampler": "euler"}, "euler"),
    ],
)
def test_what_cannot_be_written_or_drawn_is_refused_before_a_network_call(
    out: str, options: dict[str, Any], named: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("folder.png").mkdir()
    Path("folder.npz").mkdir()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    model.network.register_forward_hook(lambda *_: pytest.fail("it draws"))
    with pytest.raises(InputError, match=named):
        save_samples(model, out, **{"seeds": [0], **FEW} | options)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("out", ["a.png", "images", "a.npz", "new/a.png"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_place_that_cannot_be_written_is_refused_before_a_network_call(
    number: int, out: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    model.network.register_forward_hook(lambda *_: pytest.fail("it draws"))
    with pytest.raises(InputError, match=os.strerror(number)):
        save_samples(model, tmp_path / out, seeds=[0], **FEW)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(("out", "options", "needed"), [("a.png", {}, 12), ("a.png", {"progressive": True}, 240),
                                                         ("images", {}, 12), ("a.npz", {}, 96)])  # fmt: skip
def test_a_disk_without_room_is_refused_before_a_network_call(
    out: str, options: dict[str, Any], needed: int, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Three images of 16 bytes."""
    full = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    model.network.register_forward_hook(lambda *_: pytest.fail("it draws"))
    with pytest.raises(InputError, match=rf"{out}' takes about {needed} bytes, and {needed - 1} are free"):
        save_samples(model, tmp_path / out, seeds=[0, 1, 2], **FEW, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_more_images_than_memory_holds_are_refused_before_a_network_call(model: Model):
    model.network.register_forward_hook(lambda *_: pytest.fail("it draws"))
    with pytest.raises(InputError, match="take 1,600,000,000,000,000 bytes, more memory than there is"):
        draw(model, range(10**14), plan_for(model, Sampling(**FEW)))


@pytest.mark.parametrize(
    ("way", "where"),
    [
        (draw, "trajectory"),
        (draw, "images_begun"),
        (draw_progressively, "trajectory"),
        (draw_progressively, "x_to_images"),
    ],
)
def test_a_batch_that_memory_does_not_hold_is_refused_with_what_to_do(
    way: Callable[..., Tensor], where: str, model: Model, monkeypatch: pytest.MonkeyPatch
):
    def full(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(drawing, where, full)
    with pytest.raises(InputError, match=r"2 images at a time .*smaller batch size"):
        way(model, [0, 1, 2], plan_for(model, Sampling(**FEW)), batch_size=2)


@pytest.mark.parametrize("name", ["3", "9" * 5000, "\u0661", "-1", "1.0", ""])
def test_a_class_that_there_is_none_of_is_refused_whatever_is_written(name: str, tmp_path: Path):
    model = stored_model(tmp_path / "classed", ("a", "b", "c"), network={"classes": 3})
    with pytest.raises(InputError, match="knows no class"):
        labels_for(model, [0], name)


def test_every_form_holds_what_is_drawn(model: Model, tmp_path: Path):
    plan, seeds = plan_for(model, Sampling(**FEW)), [4, 2, 9]
    expected = draw(model, seeds, plan, batch_size=2)
    for out in ("new/a.npz", "new/images", "new/a.png"):
        assert save_samples(model, tmp_path / out, seeds=iter(seeds), batch_size=2, **FEW) == tmp_path / out
    (found,) = open_image_folder(tmp_path / "new" / "images").batches(seeds)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    with np.load(tmp_path / "new" / "a.npz") as held:
        np.testing.assert_array_equal(held["arr_0"], expected.permute(0, 2, 3, 1).numpy())
    save_grid(expected, tmp_path / "grid.png")
    assert (tmp_path / "new" / "a.png").read_bytes() == (tmp_path / "grid.png").read_bytes()


def test_progressive_rows_end_in_what_is_drawn(model: Model, tmp_path: Path):
    plan = plan_for(model, Sampling())
    rows = draw_progressively(model, [4, 2], plan, slots=SLOTS)
    save_samples(model, tmp_path / "a.png", seeds=[4, 2], progressive=True)
    save_grid(rows.flatten(0, 1), tmp_path / "b.png", columns=12)
    with Image.open(tmp_path / "a.png") as found, Image.open(tmp_path / "b.png") as expected:
        assert found.tobytes() == expected.tobytes()
    assert rows.shape[1] == 12
    np.testing.assert_array_equal(rows[:, -1].numpy(), draw(model, [4, 2], plan).numpy())


@pytest.mark.parametrize("out", ["a.npz", "images"])
def test_what_is_there_is_told_and_not_drawn_again(out: str, model: Model, tmp_path: Path):
    calls: list[int] = []
    model.network.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    for seeds, there, drawn in (([1, 2], None, 2), ([1, 2], "2 of 2", 0)):
        heard = Heard()
        save_samples(model, tmp_path / out, seeds=seeds, progress=heard, **FEW)
        told = [sentence for sentence in heard.sentences if "already" in sentence]
        assert (len(told), sum(calls)) == (there is not None, 3 * drawn)
        assert there is None or there in told[0]
        calls.clear()


@pytest.mark.parametrize("out", ["a.npz", "images", "a.png"])
def test_the_plan_that_is_announced_is_the_one_that_is_drawn(out: str, model: Model, tmp_path: Path):
    """Timesteps that are tuned while the sentence is read change nothing; the next call takes them."""
    found = TunedTimesteps((2.0, 5.0, 11.0), None, "of a test", 1.0, 2.0, "uniform", 64, 1, 0, "here", 1)

    class Meddling(Heard):
        def say(self, sentence: str) -> None:
            super().say(sentence)
            add_timesteps(model, "ddim", found)

    uniform = plan_for(model, Sampling(**FEW))
    first, second = Meddling(), Heard()
    save_samples(model, tmp_path / out, seeds=[0, 1], progress=first, **FEW)
    assert "uniform" in first.sentences[0]
    if out == "images":
        held = protocol_of(tmp_path / out)
        assert held is not None
        assert (held["spacing"], held["levels"]) == ("uniform", uniform.chain.levels[1:].tolist())
    if out == "a.npz":
        with np.load(tmp_path / out) as held_arrays:
            expected = draw(model, [0, 1], uniform).permute(0, 2, 3, 1).numpy()
            np.testing.assert_array_equal(held_arrays["arr_0"], expected)
    save_samples(model, tmp_path / f"other-{out}", seeds=[0, 1], progress=second, **FEW)
    assert "tuned" in second.sentences[0]
    if out == "images":
        with pytest.raises(InputError, match="spacing is uniform there and tuned here"):
            save_samples(model, tmp_path / out, seeds=[2], **FEW)
