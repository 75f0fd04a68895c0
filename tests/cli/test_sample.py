"""ddpm sample: one seed a picture, in the form that --out asks for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commandline import CONTROL, TINY, assert_same_pictures, done, drawn, read_grid, snapshot, start, type_in
from PIL import Image

from ddpm.checkpoint import WEIGHTS
from ddpm.samplers import SAMPLERS
from ddpm.schedule import VARIANCES

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


# ---- what is written ------------------------------------------------------------------------------------------------


def test_array_holds_the_pictures_and_their_seeds_in_the_order_asked_for(digits_run: Path, here: Path):
    said = done("sample", digits_run, "--seeds", "5,1,3-4", "--out", "a.npz")
    assert said.out == "4 pictures in a.npz\n"
    table = np.load("a.npz")
    assert table["seeds"].tolist() == [5, 1, 3, 4]
    assert (table["arr_0"].dtype, table["arr_0"].shape) == (np.uint8, (4, 8, 8, 1))
    assert_same_pictures(table["arr_0"][[1, 2, 3, 0]], drawn(digits_run, "--seeds", "1,3,4,5"))
    assert sorted(file.name for file in here.iterdir()) == ["a.npz", "drawn.npz"]


def test_png_is_a_grid_of_the_enlarged_pictures(digits_run: Path, here: Path):
    said = done("sample", digits_run, "--seeds", "0-3", "--out", "new/folder/grid.png")
    assert said.out == "4 pictures in new/folder/grid.png\n"
    image = Image.open("new/folder/grid.png")
    assert image.mode == "L"
    assert min(image.size) >= 600, "small pictures are enlarged so that a person sees them"
    cells = read_grid(Path("new/folder/grid.png"), columns=2, size=(8, 8))
    assert (cells == drawn(digits_run, "--seeds", "0-3")[..., 0]).all()
    assert [file.name for file in (here / "new/folder").iterdir()] == ["grid.png"]


def test_folder_gets_a_png_a_seed(photos_run: Path):
    done("sample", photos_run, "--seeds", "17,3", "--out", "pictures")
    assert sorted(snapshot(Path("pictures"))) == ["000003.png", "000017.png"]
    found = [Image.open(f"pictures/0000{seed}.png") for seed in ("17", "03")]
    assert [(image.mode, image.size) for image in found] == [("RGB", (24, 16))] * 2
    assert (np.stack([np.asarray(image) for image in found]) == drawn(photos_run, "--seeds", "17,3")).all()


@pytest.mark.parametrize("channels", MODES)
def test_any_channel_count_and_rectangle_trains_and_is_drawn_in_its_mode(channels: int):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 16, channels), np.uint8)
    np.save("images.npy", images)
    done("train", "small", "--data", "images.npy", "--out", "run", *TINY, "--set", "train_images=16")
    done("sample", "run", "--seeds", "0", "--out", "one")
    image = Image.open("one/000000.png")
    assert (image.mode, image.size) == (MODES[channels], (16, 8))
    done("sample", "run", "--seeds", "0-4", "--out", "grid.png")
    grid = Image.open("grid.png")
    assert grid.mode == MODES[channels]
    cells = read_grid(Path("grid.png"), columns=3, size=(8, 16)).reshape(6, 8, 16, channels)
    assert (cells[0] == np.asarray(image).reshape(8, 16, channels)).all()
    if channels in (2, 4):
        assert np.asarray(grid)[0, 0, -1] == 255, "the gaps are opaque"


def test_default_is_64_pictures(digits_run: Path):
    assert done("sample", digits_run, "--steps", "1", "--out", "a.npz").out == "64 pictures in a.npz\n"
    assert np.load("a.npz")["seeds"].tolist() == list(range(64))


def test_existing_output_is_replaced(digits_run: Path):
    Path("a.npz").write_text("old")
    Path("pictures").mkdir()
    Path("pictures/000000.png").write_text("old")
    for out in ("a.npz", "pictures"):
        done("sample", digits_run, "--seeds", "0", "--out", out)
    assert (np.load("a.npz")["arr_0"][0, ..., 0] == np.asarray(Image.open("pictures/000000.png"))).all()


def test_progressive_is_a_row_a_seed_that_ends_in_the_picture(digits_run: Path):
    done("sample", digits_run, "--seeds", "4,2", "--progressive", "--out", "rows.png")
    cells = read_grid(Path("rows.png"), columns=12, size=(8, 8)).reshape(2, 12, 8, 8)
    assert_same_pictures(cells[:, -1], drawn(digits_run, "--seeds", "4,2")[..., 0])
    assert (cells[:, 0] != cells[:, -1]).any(), "the first column is a prediction from noise"


# ---- what is drawn --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["1", "3", "64"])
def test_same_seed_is_the_same_picture_in_any_batch(size: str, kinds_run: Path):
    alone = np.concatenate([drawn(kinds_run, "--seeds", str(seed)) for seed in range(4)])
    assert_same_pictures(drawn(kinds_run, "--seeds", "0-3", "--batch-size", size), alone)
    assert len({picture.tobytes() for picture in alone}) == 4


def test_class_by_name_and_by_number_are_the_same(kinds_run: Path):
    china, flower = (drawn(kinds_run, "--seeds", "0-7", "--class", name) for name in ("china", "flower"))
    assert (drawn(kinds_run, "--seeds", "0-7", "--class", "1") == flower).all()
    assert (china != flower).any()
    mixed = drawn(kinds_run, "--seeds", "0-7")
    which = [[(mixed[k] == of[k]).all() for of in (china, flower)] for k in range(8)]
    assert all(any(row) for row in which), "without --class each seed draws one of the classes"
    assert np.array(which).any(axis=0).all(), "and not all the same"


@pytest.mark.parametrize("variance", VARIANCES)
def test_every_variance_can_be_chosen(variance: str, digits_run: Path):
    found = drawn(digits_run, "--seeds", "0-3", "--variance", variance)
    usual = drawn(digits_run, "--seeds", "0-3")
    assert (found == usual).all() == (variance == "large"), "digits is a recipe of large variance"


@pytest.mark.parametrize("weights", WEIGHTS)
def test_all_weights_can_be_chosen(weights: str, digits_run: Path):
    found = drawn(digits_run, "--seeds", "0-3", "--weights", weights)
    assert (found == drawn(digits_run, "--seeds", "0-3")).all() == (weights == "averaged")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_can_be_chosen(sampler: str, digits_run: Path):
    assert drawn(digits_run, "--seeds", "0-3", "--sampler", sampler).shape == (4, 8, 8, 1)


@pytest.mark.parametrize("steps", [1, 2, 5, 11, 12])
def test_any_number_of_steps_up_to_all_can_be_chosen(steps: int, digits_run: Path):
    end = done("sample", digits_run, "--seeds", "0-1", "--steps", str(steps), "--out", "a.npz")
    assert f"Sampling: {2 * steps} of {2 * steps}\n" in end.err
    same = (np.load("a.npz")["arr_0"] == drawn(digits_run, "--seeds", "0-1")).all()
    assert same == (steps == 12)


def test_checkpoint_is_as_good_as_its_run(digits_run: Path):
    older, newer = sorted((digits_run / "checkpoints").iterdir())
    usual = drawn(digits_run, "--seeds", "0-3")
    assert (drawn(newer, "--seeds", "0-3") == usual).all()
    assert (drawn(older, "--seeds", "0-3") != usual).any()


def test_device_named_cpu_draws_the_same(digits_run: Path):
    usual = drawn(digits_run, "--seeds", "0-3")
    assert_same_pictures(drawn(digits_run, "--seeds", "0-3", "--device", "cpu"), usual)


# ---- what is said ---------------------------------------------------------------------------------------------------


def test_progress_is_plain_lines_on_stderr_without_a_terminal(digits_run: Path, here: Path):
    words = ("sample", digits_run, "--seeds", "0-1", "--out", "a.png")
    child = start(*words, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = (stream.decode() for stream in child.communicate(timeout=100))
    assert (child.returncode, out) == (0, "2 pictures in a.png\n")
    assert not CONTROL.search(err)
    assert err.splitlines()[-1] == "Sampling: 24 of 24"
    assert len(err.splitlines()) <= 4, err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")
@pytest.mark.parametrize("command", ["sample", "train"])
def test_a_terminal_gets_a_bar(command: str, digits_run: Path, here: Path):
    import pty

    words = {
        "sample": ("sample", digits_run, "--seeds", "0-1", "--out", "a.png"),
        "train": ("train", "digits", "--out", "run", *TINY),
    }[command]
    ours, theirs = pty.openpty()
    child = start(*words, cwd=here, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 4096):
            seen += piece
    except OSError:  # how Linux ends a pty
        pass
    os.close(ours)
    out, _ = child.communicate(timeout=100)
    text = seen.decode()
    assert child.returncode == 0, text
    assert "\x1b" not in out.decode()
    assert "\x1b[" in text
    assert "━" in text, "a bar"
    title, end = {"sample": ("Sampling", "24/24"), "train": ("Training", "64/64")}[command]
    assert title in text
    assert end in text
    assert ("images/s" in text) == (command == "train")


# ---- Ctrl-C ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_while_drawing_ends_with_130_and_leaves_the_old_file(digits_run: Path, here: Path):
    Path("a.png").write_text("the old file")
    before = snapshot(here)
    words = ("sample", digits_run, "--seeds", "0-50000", "--out", "a.png")
    child = start(*words, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stderr is not None
    while not child.stderr.readline().startswith(b"Sampling:"):
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=100)
    assert (child.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert err.decode().splitlines()[-1:] == ["ddpm: stopped."]
    assert snapshot(here) == before


@pytest.mark.parametrize("out", ["a.png", "a.npz", "pictures"])
def test_ctrl_c_while_writing_leaves_nothing_half_written(
    out: str, digits_run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
):
    def half(target: Path, *_: object, **__: object) -> None:
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", lambda image, target, *_, **__: half(target))
    monkeypatch.setattr(np, "savez_compressed", half)
    end = type_in("sample", digits_run, "--seeds", "0-1", "--out", out)
    assert (end.code, end.out) == (130, "")
    assert {path for path, held in snapshot(here).items() if held} == set()
