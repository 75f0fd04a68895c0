"""ddpm sample: one seed a picture, in the form that --out asks for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commandline import (
    CONTROL,
    TINY,
    assert_same_pictures,
    done,
    drawn,
    read_grid,
    sentence,
    snapshot,
    start,
    type_in,
)
from numpy.typing import NDArray
from PIL import Image

from ddpm.diffusion.denoiser import THRESHOLDS
from ddpm.diffusion.schedule import VARIANCES
from ddpm.model.checkpoint import WEIGHTS
from ddpm.networks import UNet
from ddpm.samplers import SAMPLERS, SPACINGS
from ddpm.samplers.plan import ETA

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
    assert sorted(snapshot(Path("pictures"))) == [".lock", "000003.png", "000017.png", "sampling.json"]
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


@pytest.mark.parametrize("out", ["a.png", "a.npz"])
def test_a_file_that_is_there_is_replaced(out: str, digits_run: Path, here: Path):
    Path(out).write_text("old")
    done("sample", digits_run, "--seeds", "0", "--out", out)
    assert [file.name for file in here.iterdir()] == [out]
    assert Path(out).read_bytes() != b"old"


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
def test_every_sampler_draws_on_all_levels_and_on_few(sampler: str, digits_run: Path, calls: list[int]):
    for steps, few in ((12, ()), (5, ("--steps", "5"))):
        calls.clear()
        end = done("sample", digits_run, "--seeds", "0-3", "--sampler", sampler, *few, "--out", "a.npz")
        each = 2 * steps - 1 if sampler == "heun" else steps
        assert sum(calls) == 4 * each
        assert f"Drawing by {sampler}" in end.err
        assert f"; {each} network calls a picture;" in end.err
        assert f"Sampling: {4 * steps} of {4 * steps}\n" in end.err
        assert np.load("a.npz")["arr_0"].shape == (4, 8, 8, 1)


@pytest.mark.parametrize("steps", [1, 2, 5, 11, 12])
def test_any_number_of_steps_up_to_all_can_be_chosen(steps: int, digits_run: Path):
    """On all of them the paper's sampler is what it is without the option."""
    words = ("--seeds", "0-1", "--steps", str(steps))
    end = done("sample", digits_run, *words, "--sampler", "ancestral", "--out", "a.npz")
    assert f"Sampling: {2 * steps} of {2 * steps}\n" in end.err
    same = (np.load("a.npz")["arr_0"] == drawn(digits_run, "--seeds", "0-1")).all()
    assert same == (steps == 12)
    assert drawn(digits_run, *words).shape == (2, 8, 8, 1)


def test_few_steps_are_drawn_by_the_sde_solver_unless_a_sampler_or_a_variance_is_named(digits_run: Path):
    words = ("--seeds", "0-7", "--steps", "4")
    usual = drawn(digits_run, *words)
    end = done("sample", digits_run, *words, "--out", "a.png")
    said = "Drawing by dpm++sde, eta 1, reach 1: 4 levels, uniform (12, 9, 6, 3); 4 network calls a picture; averaged "
    assert said in end.err
    for same in (("--sampler", "dpm++sde"), ("--eta", "1"), ("--spacing", "uniform"), ("--threshold", "static")):
        assert (drawn(digits_run, *words, *same) == usual).all(), same
    ancestral = drawn(digits_run, *words, "--sampler", "ancestral")
    assert (drawn(digits_run, *words, "--variance", "large") == ancestral).all()
    assert (ancestral != usual).any()
    assert (
        "Drawing by ancestral: all levels; 12 network" in done("sample", digits_run, "--seeds", "0", "--out", "b").err
    )


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_spacing_can_be_chosen_and_its_levels_are_said(spacing: str, digits_run: Path):
    words = ("--seeds", "0-3", "--steps", "3", "--spacing", spacing)
    end = done("sample", digits_run, *words, "--out", "a.npz")
    assert f"3 levels, {spacing} (12, " in end.err
    same = (np.load("a.npz")["arr_0"] == drawn(digits_run, "--seeds", "0-3", "--steps", "3")).all()
    assert same == (spacing == "uniform")


@pytest.mark.parametrize("sampler", ETA)
def test_every_strength_of_the_noise_is_another_picture_and_the_samplers_own_is_the_usual_one(
    sampler: str, digits_run: Path
):
    low, high = ETA[sampler]
    words = ("--seeds", "0-7", "--steps", "4", "--sampler", sampler)
    usual = drawn(digits_run, *words)
    found = [drawn(digits_run, *words, "--eta", str(eta)) for eta in (low, (low + high) / 2, high)]
    assert len({pictures.tobytes() for pictures in found}) == 3
    assert [(pictures == usual).all() for pictures in found].count(True) == 1


@pytest.mark.parametrize("few", [(), ("--steps", "4")], ids=["all levels", "few"])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_every_threshold_can_be_chosen(threshold: str, few: tuple[str, ...], digits_run: Path):
    found = drawn(digits_run, "--seeds", "0-7", *few, "--threshold", threshold)
    assert (found == drawn(digits_run, "--seeds", "0-7", *few)).all() == (threshold == "static")


def test_a_model_that_learned_without_its_classes_is_guided(guided_run: Path, calls: list[int]):
    """Trained on a few hundred images; a weight of 1 is no guidance, and every other costs twice the calls."""
    words = ("--seeds", "0-7", "--steps", "4", "--class", "3")
    usual = drawn(guided_run, *words)
    calls.clear()
    end = done("sample", guided_run, *words, "--guidance", "2", "--out", "a.npz")
    assert sum(calls) == 8 * 8
    assert "8 network calls a picture" in end.err
    assert "Sampling: 32 of 32\n" in end.err
    with np.load("a.npz") as held:
        assert held["arr_1"].tolist() == [3] * 8
        assert (held["arr_0"] != usual).any()
    assert (drawn(guided_run, *words, "--guidance", "1") == usual).all()
    nought = [drawn(guided_run, *words[:-1], name, "--guidance", "0") for name in ("3", "5")]
    assert (nought[0] == nought[1]).all(), "without weight the class is nothing"
    assert (nought[0] != usual).any()
    done("sample", guided_run, "--seeds", "0", "--progressive", "--guidance", "3", "--out", "rows.png")


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
def test_ctrl_c_while_writing_leaves_nothing_half_written_and_the_same_command_goes_on(
    out: str, digits_run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
):
    def half(target: Path, *_: object, **__: object) -> None:
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    words = ("sample", digits_run, "--seeds", "0-1", "--out")
    done(*words, f"whole/{out}")
    with monkeypatch.context() as interrupted:
        interrupted.setattr(Image.Image, "save", lambda image, target, *_, **__: half(target))
        interrupted.setattr(np, "savez", half)
        end = type_in(*words, out)
    assert (end.code, end.out) == (130, "")
    assert not [path for path in here.rglob("*") if path.is_file() and path.read_bytes() == b"half"]
    done(*words, out)
    whole = {path.removeprefix("whole/"): held for path, held in snapshot(here).items() if path.startswith("whole/")}
    assert {path: held for path, held in snapshot(here).items() if not path.startswith("whole")} == whole


# ---- folders and arrays go on ---------------------------------------------------------------------------------------


def shown(out: str) -> NDArray[np.uint8]:
    """The pictures in a folder or an array, by rising seeds."""
    if out.endswith(".npz"):
        return np.load(out)["arr_0"]
    return np.stack([np.asarray(Image.open(file))[..., None] for file in sorted(Path(out).glob("*.png"))])


@pytest.mark.parametrize("out", ["a.npz", "pictures"])
def test_seeds_in_two_calls_are_those_of_one(out: str, digits_run: Path, calls: list[int]):
    """Five pictures at a time, so that batches are the same and so is every bit."""
    words = ("--steps", "3", "--batch-size", "5")
    done("sample", digits_run, "--seeds", "0-4", *words, "--out", out)
    calls.clear()
    end = done("sample", digits_run, "--seeds", "0-9", *words, "--out", out)
    assert end.out == f"10 pictures in {out}\n"
    if out == "pictures":
        assert "5 of 10 pictures are there already.\n" in end.err
        assert "Sampling: 15 of 15\n" in end.err
        assert sum(calls) == 15
    done("sample", digits_run, "--seeds", "0-9", *words, "--out", f"once/{out}")
    assert (shown(out) == shown(f"once/{out}")).all()
    assert len(shown(out)) == 10


@pytest.mark.parametrize("out", ["a.npz", "pictures"])
def test_stopped_in_the_middle_it_goes_on_and_a_finished_one_is_left_alone(
    out: str, digits_run: Path, here: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
):
    """Ctrl-C in the third batch of four: two are kept."""
    words = ("sample", digits_run, "--seeds", "0-7", "--steps", "3", "--batch-size", "2", "--out")
    done(*words, f"once/{out}")
    counted = UNet.forward

    def interrupted(network: UNet, *given: object) -> object:
        if len(calls) == 7:
            raise KeyboardInterrupt
        return counted(network, *given)  # type: ignore[arg-type]

    calls.clear()
    with monkeypatch.context() as patched:
        patched.setattr(UNet, "forward", interrupted)
        end = type_in(*words, out)
    assert (end.code, end.out) == (130, "")
    calls.clear()
    assert "4 of 8 pictures are there already." in done(*words, out).err
    assert sum(calls) == 12
    assert (shown(out) == shown(f"once/{out}")).all()
    before = snapshot(here)
    calls.clear()
    assert "8 of 8 pictures are there already." in done(*words, out).err
    assert calls == []
    assert snapshot(here) == before


def test_a_folder_says_how_its_pictures_were_drawn(digits_run: Path):
    done("sample", digits_run, "--seeds", "0-1", "--steps", "3", "--out", "pictures")
    protocol = json.loads(Path("pictures/sampling.json").read_text())["protocol"]
    assert (protocol["sampler"], protocol["steps"], protocol["levels"]) == ("dpm++sde", 3, [4, 8, 12])
    weights = json.loads((digits_run / "checkpoints/0000000064/config.json").read_text())["sha256"]
    assert protocol["weights_sha256"] == weights["model.safetensors"]


OTHERS = {
    "--steps 4": "steps",
    "--steps 3 --sampler ddim": "sampler",
    "--steps 3 --spacing karras": "spacing",
    "--steps 3 --eta 0.5": "eta",
    "--steps 3 --threshold dynamic": "threshold",
    "--steps 3 --weights raw": "weights",
    "": "sampler",
}


@pytest.mark.parametrize("how", OTHERS)
def test_pictures_drawn_another_way_are_not_mixed_with_those_that_are_there(
    how: str, digits_run: Path, here: Path, calls: list[int]
):
    done("sample", digits_run, "--seeds", "0-1", "--steps", "3", "--out", "pictures")
    before = snapshot(here)
    calls.clear()
    end = type_in("sample", digits_run, "--seeds", "0-3", *how.split(), "--out", "pictures")
    assert (end.code, end.out, calls) == (2, "", [])
    said = end.err.splitlines()[-1]
    assert said.startswith(f"ddpm: 'pictures' holds pictures drawn another way: {OTHERS[how]} ")
    assert "another folder would fit" in said
    assert "Traceback" not in end.err
    assert snapshot(here) == before


def test_pictures_of_another_model_or_of_nobody_knows_whom_are_not_mixed_with(
    digits_run: Path, here: Path, calls: list[int]
):
    done("sample", digits_run, "--seeds", "0-1", "--steps", "3", "--out", "pictures")
    Path("mine").mkdir()
    Path("mine/000000.png").write_text("old")
    before = snapshot(here)
    calls.clear()
    older = sorted((digits_run / "checkpoints").iterdir())[0]
    for run, out, words in ((older, "pictures", "weights_sha256"), (digits_run, "mine", "no sampling.json")):
        end = type_in("sample", run, "--seeds", "0-3", "--steps", "3", "--out", out)
        assert (end.code, end.out, calls) == (2, "", [])
        assert words in end.err.splitlines()[-1]
        assert snapshot(here) == before


# ---- what makes no sense --------------------------------------------------------------------------------------------

SENSELESS = {
    "--steps 0": ["0 steps", "1 or more"],
    "--steps -1": ["-1 steps", "1 or more"],
    "--steps 13": ["13 steps", "1 to 12"],
    "--steps 13 --spacing karras": ["13 steps", "1 to 12"],
    "--sampler dpm+": ["'dpm+'", "did you mean 'dpm++'", "unipc"],
    "--spacing karas --steps 4": ["'karas'", "did you mean 'karras'", "log-snr"],
    "--spacing karras": ["'karras'", "--steps"],
    "--threshold dinamic": ["'dinamic'", "did you mean 'dynamic'", "none"],
    "--variance smal": ["'smal'", "did you mean 'small'", "optimal"],
    "--variance small --sampler heun": ["'heun' has no variance", "--sampler ancestral"],
    "--variance range": ["'range'", "large"],
    "--variance optimal": ["ddpm tune"],
    "--variance optimal --steps 3": ["ddpm tune"],
    "--eta 0.5": ["'ancestral' takes no eta", "ddim"],
    "--eta 0.5 --steps 4 --sampler heun": ["'heun' takes no eta", "ddim"],
    "--eta 1.5 --sampler ddim": ["1.5", "0 to 1"],
    "--eta -0.1 --steps 4": ["-0.1", "0 to 2"],
    "--eta nan --steps 4": ["nan", "0 to 2"],
    "--spacing tuned": ["'tuned'", "--steps"],
    "--spacing tuned --steps 13": ["13 steps", "1 to 12"],
    "--spacing tuned --steps 4": ["ddpm tune", "--sampler dpm++sde --steps 4"],
    "--spacing tuned --steps 4 --sampler heun": ["ddpm tune", "--sampler heun --steps 4"],
    "--guidance 2": ["guidance", "label_dropout"],
    "--guidance 0": ["guidance", "label_dropout"],
    "--guidance nan": ["guidance"],
    "--class 3": ["without classes"],
}


@pytest.mark.usefixtures("no_calls")
@pytest.mark.parametrize("words", SENSELESS)
def test_what_makes_no_sense_is_one_sentence_before_the_network_is_asked(words: str, digits_run: Path, here: Path):
    for out in ("a.png", "a.npz", "pictures"):
        said = sentence(type_in("sample", digits_run, *words.split(), "--out", out))
        for word in SENSELESS[words]:
            assert word in said
    assert list(here.iterdir()) == []


GUIDED = {
    "--class 10": ["'10'", "0, 1, 2"],
    "--class roses --guidance 2": ["'roses'", "0, 1, 2"],
    "--guidance nan": ["guidance"],
    "--guidance inf": ["guidance"],
}


@pytest.mark.usefixtures("no_calls")
@pytest.mark.parametrize("words", GUIDED)
def test_what_makes_no_sense_to_a_model_of_classes_is_one_sentence_as_well(words: str, guided_run: Path, here: Path):
    said = sentence(type_in("sample", guided_run, *words.split(), "--out", "a.png"))
    for word in GUIDED[words]:
        assert word in said
    assert list(here.iterdir()) == []
