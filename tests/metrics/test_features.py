"""Extractors: what a network must be, and a sentence for everything it may be instead."""

from __future__ import annotations

import hashlib
import logging
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export, save

from ddpm.base.geometry import Geometry
from ddpm.errors import InputError
from ddpm.metrics.extractors import FEATURES, open_extractor
from ddpm.metrics.features import features_of
from ddpm.metrics.frechet import frechet_distance
from ddpm.metrics.statistics import statistics_of

CPU = torch.device("cpu")
COLOUR = Geometry(3, 9, 12)
EXAMPLE = torch.zeros(2, 3, 9, 12, dtype=torch.uint8)
ANY = ({0: Dim("B")},)
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 3, 9, 12), np.uint8))


class Small(nn.Module):
    """Convolution and pooling to six features; `last` may spoil them."""

    def __init__(self, last: Callable[[Tensor], object] = lambda rows: rows, *, normalised: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6) if normalised else nn.ReLU())
        self.last = last

    def forward(self, images: Tensor) -> object:
        return self.last(self.body(images.float() / 255).mean((2, 3)))


class Two(nn.Module):
    def forward(self, images: Tensor, more: Tensor) -> Tensor:
        return images.float().flatten(1) + more


class Named(nn.Module):
    def forward(self, *, images: Tensor) -> Tensor:
        return images.float().flatten(1)


def program(path: Path, network: nn.Module, example: tuple[Tensor, ...] = (EXAMPLE,), **how: object) -> str:
    with torch.no_grad():
        save(export(network, example, **({"dynamic_shapes": ANY} | how)), path)
    return str(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return program(tmp_path_factory.mktemp("programs") / "small.pt2", Small().eval())


# ---- what extractors do ---------------------------------------------------------------------------------------------


def test_pixels_are_grey_levels_between_nothing_and_one():
    pixels = open_extractor("pixels", COLOUR, CPU)
    assert (pixels.name, pixels.sha256, pixels.dimensions) == ("pixels", "pixels", 324)
    found = pixels(IMAGES)
    assert (found.dtype, found.shape) == (np.float64, (7, 324))
    np.testing.assert_array_equal(found * 255, IMAGES.numpy().reshape(7, -1))
    assert pixels(torch.full_like(EXAMPLE, 255)).min() == 1


def test_a_program_gives_what_its_network_gives(small: str):
    """The same float32 kernels in the same order on one thread; 1e-6 would be their rounding."""
    extractor = open_extractor(small, COLOUR, CPU)
    assert (extractor.name, extractor.dimensions, extractor.geometry) == (small, 6, COLOUR)
    assert extractor.sha256 == hashlib.sha256(Path(small).read_bytes()).hexdigest()
    found = extractor(IMAGES)
    assert found.dtype == np.float64
    with torch.no_grad():
        np.testing.assert_allclose(found, Small().eval()(IMAGES).numpy(), rtol=1e-6)


@pytest.mark.parametrize("which", ["pixels", "small"])
@pytest.mark.parametrize("size", [1, 2, 5, 7, 100])
def test_features_do_not_depend_on_the_batches(which: str, size: int, small: str):
    """Beyond the rounding of float32: kernels for one image sum in another order."""
    extractor = open_extractor(small if which == "small" else which, COLOUR, CPU)
    found = features_of(extractor, IMAGES.split(size))
    np.testing.assert_allclose(found, extractor(IMAGES), rtol=1e-5, atol=1e-6)


def test_features_carry_no_gradient_and_leave_the_mode_alone(small: str):
    extractor = open_extractor(small, COLOUR, CPU)
    seen = []
    network = extractor.network
    object.__setattr__(extractor, "network", lambda images: (seen.append(torch.is_grad_enabled()), network(images))[1])
    extractor(IMAGES)
    assert seen == [False]
    assert torch.is_grad_enabled()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_features_on_a_gpu_are_those_on_the_cpu(small: str):
    there, here = (open_extractor(small, COLOUR, torch.device(name)) for name in ("cuda", "cpu"))
    np.testing.assert_allclose(there(IMAGES), here(IMAGES), rtol=1e-5, atol=1e-5)


def test_features_are_strict_inside_any_autocast(small: str):
    extractor = open_extractor(small, COLOUR, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        found = extractor(IMAGES)
    np.testing.assert_array_equal(found, extractor(IMAGES))


def test_a_normalised_network_in_evaluation_mode_fits(tmp_path: Path):
    path = program(tmp_path / "norm.pt2", Small(normalised=True).eval())
    assert open_extractor(path, COLOUR, CPU).dimensions == 6


def test_half_precision_comes_out_as_float64(tmp_path: Path):
    extractor = open_extractor(program(tmp_path / "half.pt2", Small(lambda rows: rows.half()).eval()), COLOUR, CPU)
    assert extractor(IMAGES).dtype == np.float64


def test_a_program_for_any_size_takes_this_one(tmp_path: Path):
    sizes = ({0: Dim("B"), 2: Dim("H", min=4, max=64), 3: Dim("W", min=4)},)
    path = program(tmp_path / "any.pt2", Small().eval(), dynamic_shapes=sizes)
    assert open_extractor(path, COLOUR, CPU)(IMAGES).shape == (7, 6)
    assert open_extractor(path, Geometry(3, 5, 30), CPU).geometry == Geometry(3, 5, 30)


@pytest.mark.slow
def test_the_fashion_mnist_judge_finds_the_distances_noted_beside_it(data_root: Path):
    """Half of 2,000 test images against the other half; 265 for uniform noise, here with a thousand images."""
    judge = data_root.parent / "judge" / "fashion-mnist-features.pt2"
    if not judge.exists():
        pytest.skip(f"there is no judge beside the data: {judge}")
    from ddpm.data.sources import open_images

    images = open_images(f"{data_root / 'fashion-mnist'}:test")
    extractor = open_extractor(str(judge), images.geometry, CPU)
    assert extractor.sha256 == "52137ca6bc68a9363af453be116e1538b39c138785c75df8a653c59bddb5be59"
    assert extractor.dimensions == 128
    found = features_of(extractor, torch.from_numpy(images.array(range(2000))).split(250))
    reference = statistics_of(found)
    assert abs(frechet_distance(reference, reference)) < 1e-9 * np.trace(reference.covariance)
    assert 0.1 < frechet_distance(statistics_of(found[::2]), statistics_of(found[1::2])) < 2
    noise = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1000, 1, 28, 28), np.uint8))
    far = frechet_distance(statistics_of(features_of(extractor, noise.split(250))), reference)
    assert far == pytest.approx(265, rel=0.03)


# ---- refusals: names and files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "words"),
    [("pixel", r"'pixel'.*did you mean 'pixels'"), ("inception.pt2", r"'inception\.pt2'.*pixels"), ("", "''.*pixels")],
)
def test_a_name_nobody_knows_is_answered_with_those_there_are(which: str, words: str):
    with pytest.raises(InputError, match=words):
        open_extractor(which, COLOUR, CPU)


def test_every_known_name_opens():
    for name in FEATURES:
        assert open_extractor(name, COLOUR, CPU).name == name


def other_files(folder: Path, small: str) -> dict[str, Path]:
    """Files that are no programs."""
    whole = Path(small).read_bytes()
    contents = {
        "random": np.random.default_rng(0).bytes(3000),
        "text": b"hello",
        "empty": b"",
        "pickle": pickle.dumps([1, 2]),
        "cut": whole[: len(whole) // 2],
    }
    files = {name: folder / f"{name}.pt2" for name in (*contents, "zip", "tensor", "module", "script", "old")}
    for name, content in contents.items():
        files[name].write_bytes(content)
    torch.save(torch.zeros(3), files["tensor"])
    torch.save(nn.Linear(2, 2), files["module"])
    torch.save({"state": nn.Linear(2, 2).state_dict()}, files["script"])
    for name, member in (("zip", "a.txt"), ("old", "version")):
        with zipfile.ZipFile(files[name], "w") as archive:
            archive.writestr(member, "9.9.9")
    return files


def test_files_that_are_no_programs_get_one_sentence_and_no_traceback(
    tmp_path: Path, small: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    for path in other_files(tmp_path, small).values():
        with pytest.raises(InputError) as error:
            open_extractor(str(path), COLOUR, CPU)
        assert str(path) in str(error.value)
        assert error.value.__cause__ is None
        assert error.value.__suppress_context__
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert not logging.getLogger("torch.export").disabled


def test_a_folder_is_no_program(tmp_path: Path):
    with pytest.raises(InputError, match="Is a directory"):
        open_extractor(str(tmp_path), COLOUR, CPU)


def test_a_flipped_bit_in_the_weights_is_noticed(tmp_path: Path, small: str):
    """PyTorch reads over it."""
    damaged = bytearray(Path(small).read_bytes())
    with zipfile.ZipFile(small) as archive:
        weights = max(
            (one for one in archive.infolist() if "/weights/weight" in one.filename), key=lambda z: z.file_size
        )
    damaged[weights.header_offset + 30 + len(weights.filename) + weights.file_size // 2] ^= 64
    (tmp_path / "bit.pt2").write_bytes(damaged)
    with pytest.raises(InputError, match=r"bit\.pt2"):
        open_extractor(str(tmp_path / "bit.pt2"), COLOUR, CPU)


# ---- refusals: programs for something else --------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", [Geometry(1, 9, 12), Geometry(3, 12, 9), Geometry(3, 32, 32)], ids=str)
def test_a_program_for_other_images_names_theirs_and_ours(geometry: Geometry, small: str):
    wanted = ", ".join(map(str, geometry.shape))
    with pytest.raises(InputError, match=rf"uint8 \(any, 3, 9, 12\).*uint8 \(any, {wanted}\)"):
        open_extractor(small, geometry, CPU)


FIVE = torch.zeros(2, 1, 3, 9, 12, dtype=torch.uint8)
OTHER_INPUTS = {
    "floats": (Small(), {"example": (EXAMPLE.float(),)}, r"float32 \(any, 3, 9, 12\)"),
    "two": (
        Two(),
        {"example": (EXAMPLE, torch.zeros(2, 324)), "dynamic_shapes": ANY * 2},
        r"uint8 \(any, 3, 9, 12\) and float32 \(any, 324\)",
    ),
    "one batch": (Small(), {"dynamic_shapes": None}, r"uint8 \(2, 3, 9, 12\)"),
    "a small batch": (Small(), {"dynamic_shapes": ({0: Dim("B", max=8)},)}, r"uint8 \(at most 8, 3, 9, 12\)"),
    "five sizes": (nn.Flatten(), {"example": (FIVE,)}, r"uint8 \(any, 1, 3, 9, 12\)"),
    "a keyword": (
        Named(),
        {"example": (), "kwargs": {"images": EXAMPLE}, "dynamic_shapes": {"images": {0: Dim("B")}}},
        r"uint8 \(3, 3, 9, 12\) \(.*keyword",
    ),
    "larger images": (
        Small(),
        {"example": (torch.zeros(2, 3, 16, 16, dtype=torch.uint8),)}
        | {"dynamic_shapes": ({0: Dim("B"), 2: Dim("H", min=14), 3: Dim("W", min=14)},)},
        r"uint8 \(3, 3, 9, 12\) \(Guard failed",
    ),
}


@pytest.mark.parametrize("case", OTHER_INPUTS)
def test_a_program_with_another_input_is_refused(case: str, tmp_path: Path):
    network, how, words = OTHER_INPUTS[case]
    with pytest.raises(InputError, match=words):
        open_extractor(program(tmp_path / "other.pt2", network.eval(), **how), COLOUR, CPU)


OTHER_OUTPUTS = {
    "maps": (lambda rows: rows[:, :, None, None], r"float32 \(3, 6, 1, 1\) for 3 images"),
    "flat": (lambda rows: rows.sum(1), r"float32 \(3,\) for 3 images"),
    "tuple": (lambda rows: (rows, rows), "a tuple for 3 images"),
    "dictionary": (lambda rows: {"features": rows}, "a dict for 3 images"),
    "whole numbers": (lambda rows: rows.argsort(), r"int64 \(3, 6\) for 3 images"),
    "transposed": (lambda rows: rows.T, r"float32 \(6, 3\) for 3 images"),
    "nothing": (lambda rows: rows[:, :0], r"float32 \(3, 0\) for 3 images"),
    "not finite": (lambda rows: (rows - rows).log(), "infinit"),
    "the batch's mean": (lambda rows: rows - rows.mean(0), "in a batch than alone"),
    "a similarity": (lambda rows: rows @ rows.T, "in a batch than alone"),
}


@pytest.mark.parametrize("case", OTHER_OUTPUTS)
def test_a_program_with_another_output_is_refused(case: str, tmp_path: Path):
    last, words = OTHER_OUTPUTS[case]
    with pytest.raises(InputError, match=words):
        open_extractor(program(tmp_path / "other.pt2", Small(last).eval()), COLOUR, CPU)


@pytest.mark.parametrize("network", [Small(normalised=True), Small(nn.Dropout())], ids=["batch norm", "dropout"])
def test_a_program_exported_in_training_mode_is_refused(network: nn.Module, tmp_path: Path):
    with pytest.raises(InputError, match=r"\.eval\(\)"):
        open_extractor(program(tmp_path / "training.pt2", network.train()), COLOUR, CPU)


# ---- refusals: images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["pixels", "small"])
@pytest.mark.parametrize(
    "images", [IMAGES.float(), IMAGES[0], IMAGES[:, :1], IMAGES.mT], ids=["float", "one", "grey", "turned"]
)
def test_other_images_are_refused(which: str, images: Tensor, small: str):
    extractor = open_extractor(small if which == "small" else which, COLOUR, CPU)
    with pytest.raises(InputError, match="uint8 images of 3 x 9 x 12"):
        extractor(images)


class Trap(nn.Module):
    """Infinite on an image of one grey level."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level

    def forward(self, images: Tensor) -> Tensor:
        return 1 / (images.float() - self.level).abs().flatten(1).amax(1, keepdim=True)


@pytest.mark.parametrize("level", [0, 255], ids=["black", "white"])
def test_a_program_that_divides_by_nothing_on_an_empty_image_is_refused(level: int, tmp_path: Path):
    with pytest.raises(InputError, match="infinit"):
        open_extractor(program(tmp_path / "trap.pt2", Trap(level)), COLOUR, CPU)


def test_features_that_are_not_finite_later_on_are_refused(tmp_path: Path):
    extractor = open_extractor(program(tmp_path / "trap.pt2", Trap(7)), COLOUR, CPU)
    assert extractor(IMAGES).shape == (7, 1)
    with pytest.raises(InputError, match="infinit"):
        extractor(torch.full_like(EXAMPLE, 7))
