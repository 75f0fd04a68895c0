"""ddpm sample: one seed an image, in the form that --out asks for. What is drawn is tested in tests/verbs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from commandline import done, read_grid, sentence, snapshot, type_in
from numpy.typing import NDArray
from PIL import Image

import ddpm
from ddpm.networks.unet import UNet

FEW = ("--steps", "3", "--batch-size", "4")


def drawn(run: Path, seeds: str, **how: object) -> NDArray[np.uint8]:
    """What the library draws: uint8 (B, H, W, C)."""
    numbers = ddpm.base.seeding.parse_seeds(seeds)
    return ddpm.sample(ddpm.load(run), seeds=numbers, **how).transpose(0, 2, 3, 1)


def test_array_holds_the_images_and_their_seeds_in_the_order_asked_for(digits_run: Path, here: Path):
    end = done("sample", digits_run, "--seeds", "5,1,3-4", "--out", "a.npz")
    assert end.out == "4 images in a.npz\n"
    assert end.err.splitlines()[-1] == "Sampling: 48 of 48"
    assert "Drawing by ancestral" in end.err
    table = np.load("a.npz")
    assert table["seeds"].tolist() == [5, 1, 3, 4]
    assert (table["arr_0"].dtype, table["arr_0"].shape) == (np.uint8, (4, 8, 8, 1))
    assert (table["arr_0"] == drawn(digits_run, "5,1,3-4")).all()
    assert [file.name for file in here.iterdir()] == ["a.npz"]


def test_png_is_a_grid_of_the_enlarged_images_and_replaces_what_is_there(digits_run: Path, here: Path):
    Path("new").mkdir()
    Path("new/grid.png").write_text("old")
    assert done("sample", digits_run, "--seeds", "0-3", "--out", "new/grid.png").out == "4 images in new/grid.png\n"
    image = Image.open("new/grid.png")
    assert image.mode == "L"
    assert min(image.size) >= 600, "small images are enlarged so that a person sees them"
    cells = read_grid(Path("new/grid.png"), columns=2, size=(8, 8))
    assert (cells == drawn(digits_run, "0-3")[..., 0]).all()
    assert [file.name for file in (here / "new").iterdir()] == ["grid.png"]


def test_folder_gets_a_png_a_seed_and_classes_are_named(kinds_run: Path):
    words = ("--seeds", "17,3", *FEW, "--class", "flower")
    assert done("sample", kinds_run, *words, "--out", "them").out == "2 images in them\n"
    assert sorted(snapshot(Path("them"))) == [".lock", "000003.png", "000017.png", "sampling.json", "sampling.jsonl"]
    found = [Image.open(f"them/0000{seed}.png") for seed in ("17", "03")]
    assert [(image.mode, image.size) for image in found] == [("RGB", (24, 16))] * 2
    same = drawn(kinds_run, "17,3", steps=3, class_name="1")
    assert (np.stack([np.asarray(image) for image in found]) == same).all()


def test_64_images_are_drawn_unless_told_otherwise_and_one_is_said_in_the_singular(digits_run: Path):
    assert done("sample", digits_run, "--steps", "1", "--out", "a.npz").out == "64 images in a.npz\n"
    assert np.load("a.npz")["seeds"].tolist() == list(range(64))
    assert done("sample", digits_run, "--steps", "1", "--seeds", "7", "--out", "b.png").out == "1 image in b.png\n"


def test_progressive_is_a_row_a_seed_that_ends_in_the_image(digits_run: Path):
    done("sample", digits_run, "--seeds", "4,2", "--progressive", "--out", "rows.png")
    cells = read_grid(Path("rows.png"), columns=12, size=(8, 8)).reshape(2, 12, 8, 8)
    assert (cells[:, -1] == drawn(digits_run, "4,2")[..., 0]).all()
    assert (cells[:, 0] != cells[:, -1]).any(), "the first column is a prediction from noise"


@pytest.mark.parametrize("out", ["a.npz", "images"])
def test_images_that_vanish_or_change_while_others_are_drawn_are_no_success_and_the_command_mends_it(
    out: str, digits_run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
):
    """In the second of two batches; the command ended well, with other seeds' images, or was refused ever after."""
    words = ("sample", digits_run, "--seeds", "0-7", *FEW, "--out", out)
    folder = here / ("a.npz.parts" if out == "a.npz" else out)
    plain, calls = UNet.forward, []

    def meddling(network: UNet, *given: object) -> object:
        calls.append(len(given[0]))  # type: ignore[arg-type]
        if len(calls) == 4:
            if out == "a.npz":
                (folder / "000000.npz").write_bytes((folder / "000000.npz").read_bytes()[:-9])
            else:
                (folder / "000001.png").unlink()
                shutil.copy(folder / "000000.png", folder / "000002.png")
        return plain(network, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(UNet, "forward", meddling)
    end = type_in(*words)
    assert (end.code, end.out) == (4, "")
    lost = 4 if out == "a.npz" else 2
    assert f"{lost} of 8 images in '{folder.name}' were removed or changed" in end.err.splitlines()[-1]
    assert f"{8 - lost} of 8 images" in done(*words).err
    found = [np.load(out)["arr_0"]] if out == "a.npz" else [np.stack([np.asarray(Image.open(p))[..., None]
             for p in sorted(folder.glob("*.png"))])]  # fmt: skip
    assert np.abs(found[0].astype(int) - drawn(digits_run, "0-7", steps=3, batch_size=4)).max() <= 1


def test_a_finished_array_that_is_damaged_is_not_complete(digits_run: Path):
    words = ("sample", digits_run, "--seeds", "0-7", *FEW, "--out", "a.npz")
    done(*words)
    content = bytearray(Path("a.npz").read_bytes())
    content[400] ^= 1
    Path("a.npz").write_bytes(content)
    assert "'a.npz' is damaged (Bad CRC-32 for file 'arr_0.npy'): remove it" in sentence(type_in(*words), code=4)


@pytest.mark.parametrize("out", ["x" * 253 + ".png", "x" * 250 + ".npz", "x" * 256])
@pytest.mark.usefixtures("no_calls")
def test_names_that_are_too_long_are_refused_before_anything_is_drawn(out: str, digits_run: Path, here: Path):
    assert "choose a shorter name" in sentence(type_in("sample", digits_run, "--out", out))
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("out", ["a.npz", "images"])
def test_stopped_in_the_middle_it_goes_on_and_a_finished_one_is_left_alone(
    out: str, digits_run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ctrl-C in the second of two batches: the first is kept."""
    words = ("sample", digits_run, "--seeds", "0-7", *FEW, "--out", out)
    plain, calls = UNet.forward, []

    def interrupted(network: UNet, *given: object) -> object:
        calls.append(len(given[0]))  # type: ignore[arg-type]
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(network, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(UNet, "forward", interrupted)
    end = type_in(*words)
    assert (end.code, end.out) == (130, "")
    assert end.err.splitlines()[-1] == "ddpm: stopped."
    err = done(*words).err
    assert "4 of 8 images" in err
    assert err.splitlines()[-1] == "Sampling: 12 of 12"
    assert calls == [4] * 7
    before = snapshot(here)
    assert "8 of 8 images" in done(*words).err
    assert (calls, snapshot(here)) == ([4] * 7, before)
    if out == "images":
        found = np.stack([np.asarray(Image.open(f"images/00000{k}.png"))[..., None] for k in range(8)])
    else:
        found = np.load(out)["arr_0"]
    assert (found == drawn(digits_run, "0-7", steps=3, batch_size=4)).all()
