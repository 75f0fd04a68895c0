"""The codec measured on images: the numbers are those of files on disk, and unfair images are refused."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpm
from ddpm.base.progress import SILENT, Progress
from ddpm.codec.codec_data import Codec, make_codec, read_codec_data
from ddpm.codec.decode import Decoded, decode, open_file
from ddpm.codec.encode import encode, stored
from ddpm.errors import InputError, NotVerified
from ddpm.evaluation import codec_measurement
from ddpm.evaluation.codec_measurement import CodecReport, measure_codec, prepared_code
from ddpm.evaluation.codec_report import coded, plot_report
from ddpm.evaluation.image_formats import measure_others, psnr, settings, smallest_webp
from ddpm.model.model import Model
from ddpm.training.linear_model import make_linear

TRAINED = "digits:train[0:256]"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A linear model of digits, 1 x 8 x 8, with codec data."""
    images = ddpm.images(TRAINED)
    found = ddpm.load(make_linear(images, tmp_path_factory.mktemp("coded") / "run"), device="cpu")
    ddpm.tune_codec(found, images, fit_steps=50, progress=False)
    return found


@pytest.fixture(scope="module")
def codec(model: Model) -> Codec:
    made = read_codec_data(model)
    assert made is not None
    return make_codec(model, made)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of results."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def report(model: Model, kept: Path) -> CodecReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec_measurement, "BATCH", 4)
        return ddpm.evaluate_codec(model, "digits:test", limit=6, out=kept, progress=False)


def files_in(kept: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((kept / "codec").glob("*.dpc"))]


def measured(model: Model) -> list[np.ndarray]:
    """The images that the report is about."""
    images = ddpm.images("digits:test")
    rows = codec_measurement.codec_for(model, images, 6)[1]
    return list(images.array(rows.tolist()))


# ---- the report -----------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_files_on_disk(report: CodecReport, kept: Path, model: Model):
    files = files_in(kept)
    sizes = [len(file) for file in files]
    assert report.images == len(files) == 6
    assert report.lossless == pytest.approx(np.mean(sizes))
    assert report.bits_per_dim == pytest.approx(8 * np.mean(sizes) / 64)
    assert [row["bytes"] for row in report.files] == sizes
    assert report.stored == np.mean([row["stored"] for row in report.files])
    for image, file in zip(measured(model), files, strict=True):
        assert (ddpm.decompress(model, file) == image).all()
    for row in report.files:
        if not row["stored"]:
            assert row["residual_bytes"] <= 1.005 * row["ideal_bytes"] + 8
            assert row["index_bits"] > row["delivered"] > 0


def test_curves_are_the_psnr_of_prefixes(report: CodecReport, codec: Codec, model: Model):
    steps = len(codec.chain.steps)
    assert report.curves.shape == (6, steps + 1)
    assert report.ends.tolist() == [-(-sum(codec.chain.bits[:k]) // 8) for k in range(steps + 1)]
    images = measured(model)
    for k, one in enumerate(encode(codec, images, most_bytes=[10**4] * 6)):
        header = len(one.data) - 2 - report.ends[-1]
        for step in range(steps + 1):
            found = decode(codec, [open_file(codec, one.data, header + int(report.ends[step]))])[0].image
            assert report.curves[k, step] == pytest.approx(psnr(found, images[k]), abs=1e-9)
    assert report.psnr == pytest.approx(report.curves.mean(0).tolist())
    assert report.prefixes == [int(end + np.median(report.headers)) for end in report.ends]
    middle = steps // 2
    size = max(report.headers) + report.ends[middle]
    last = [max(s for s in range(steps + 1) if report.headers[k] + report.ends[s] <= size) for k in range(6)]
    assert report.psnr_at(size) == pytest.approx(np.mean([report.curves[k, step] for k, step in enumerate(last)]))
    assert np.isnan(report.psnr_at(min(report.headers) - 1))
    assert report.bytes_at(report.psnr[middle]) == pytest.approx(report.prefixes[middle])
    assert np.isnan(report.bytes_at(report.psnr[-1] + 1))


@pytest.mark.parametrize("how_many", [1, 3])
def test_images_stored_as_png_have_the_curves_of_their_lossy_files(
    how_many: int, codec: Codec, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images, rows = ddpm.images("digits:test"), np.arange(3)
    plain = measure_codec(codec, images, rows, tmp_path / "plain")

    def stored_some(codec: Codec, images: list, most_bytes: list | None = None) -> list:
        found = encode(codec, images, most_bytes=most_bytes)
        if most_bytes is not None:
            return found
        return [stored(codec, image) if k < how_many else found[k] for k, image in enumerate(images)]

    monkeypatch.setattr(codec_measurement, "encode", stored_some)
    report = measure_codec(codec, images, rows, tmp_path / "stored")
    assert report.stored == pytest.approx(how_many / 3)
    assert [row["stored"] for row in report.files] == [True] * how_many + [False] * (3 - how_many)
    assert (report.curves == plain.curves).all()
    kept = [one.divergence for one in encode(codec, list(images.array([1, 2])))]
    if how_many == 3:
        assert np.isnan(report.theory[1:]).all()
        json.loads(json.dumps(report.table()), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    else:
        assert report.theory == pytest.approx([0, *(np.cumsum(np.mean(kept, axis=0)) / 8)])
    plot_report(report, tmp_path / "plot.png")
    assert report.lines()


def test_theory_is_the_divergence_of_the_chain(report: CodecReport, codec: Codec, model: Model):
    steps = np.array([one.divergence for one in encode(codec, measured(model))])
    assert report.theory == pytest.approx([0, *(steps.mean(0).cumsum() / 8)])


def test_table_on_disk_holds_the_report_and_what_it_is_about(report: CodecReport, kept: Path, codec: Codec):
    table = json.loads((kept / "codec.json").read_text())
    assert table["fingerprint"] == codec.fingerprint
    assert table["data"] == "digits:test"
    plain = json.loads(json.dumps(report.table()))
    assert {key: table[key] for key in plain} == plain
    assert len(table["psnr"]) == len(table["prefixes"]) == len(table["theory"])
    assert {"headers", "ends", "curves"}.isdisjoint(table)


def test_lines_name_every_lossless_format_and_its_bytes(report: CodecReport):
    lines = report.lines()
    best = {one.name: one.bytes for one in sorted(report.others, key=lambda one: -one.bytes) if one.psnr is None}
    assert {"PNG", "WebP"} <= set(best)
    for name, size in {"ddpm": report.lossless, **best}.items():
        assert any(name in line and f"{size:.1f}" in line for line in lines)


@pytest.mark.parametrize("name", ["codec.png", "codec-strip.png", "codec-bytes.png"])
def test_plots_are_written(name: str, report: CodecReport, kept: Path):
    assert Image.open(kept / name).size[0] > 300


def test_again_gives_the_same_numbers_and_tells_of_images_and_files(report: CodecReport, model: Model, tmp_path: Path):
    said: list[str] = []
    stages: list[tuple[str, int]] = []
    told: list[int] = []

    class Heard(Progress):
        def say(self, sentence: str) -> None:
            said.append(sentence)

        @contextmanager
        def stage(self, title: str, total: int, done: int = 0):
            stages.append((title, total))
            yield lambda more, note="": told.append(more)

    again = ddpm.evaluate_codec(model, "digits:test", limit=6, out=tmp_path, progress=Heard())
    tables = [{key: value for key, value in one.table().items() if key != "seconds"} for one in (report, again)]
    assert tables[0] == tables[1]
    assert again.seconds.keys() == {"encode", "decode"}
    assert stages == [("Images", 6)]
    assert sum(told) == 6
    written = [tmp_path / f"codec{end}" for end in (".png", "-strip.png", "-bytes.png", ".json")]
    assert said[1:] == list(map(str, written))
    assert "codec-averaged.json" in said[0]


def test_prefixes_of_the_plots_are_images_of_lossy_files(codec: Codec, model: Model):
    images = measured(model)[:2]
    for image, one in zip(images, coded(codec, images), strict=True):
        assert one.lossless.data == encode(codec, [image])[0].data
        for size, (shown, decibels) in zip((20, 40), one.prefixes(codec, [20, 40]), strict=True):
            assert (shown == decode(codec, [open_file(codec, one.lossy, size)])[0].image).all()
            assert decibels == psnr(shown, image)


# ---- bits/dim of real files -----------------------------------------------------------------------------------------


def test_code_of_a_likelihood_is_the_mean_size_of_real_files(model: Model, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(codec_measurement, "BATCH", 3)
    images = ddpm.images("digits:test")
    found = prepared_code(model, images, 7)(SILENT)
    rows = codec_measurement.codec_for(model, images, 7)[1]
    paths = [tmp_path / f"{row}.png" for row in rows]
    for path, row in zip(paths, rows.tolist(), strict=True):
        Image.fromarray(images[row][0]).save(path)
    report = ddpm.compress_files(model, paths, tmp_path / "files", progress=False)
    sizes = np.array([file.stat().st_size for file in (tmp_path / "files").iterdir()])
    assert len(sizes) == 7
    assert found.value == pytest.approx(8 * sizes.mean() / 64)
    assert found.value == pytest.approx(report.table()["bits_per_dim"])
    assert found.error == pytest.approx(8 * sizes.std(ddof=1) / 64 / 7**0.5)


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_images_that_the_codec_was_made_on_are_refused(model: Model, tmp_path: Path):
    for data in (TRAINED, "digits:train[10:40]"):
        with pytest.raises(InputError, match="digits:train"):
            ddpm.evaluate_codec(model, data, limit=3, out=tmp_path / "kept", progress=False)
        with pytest.raises(InputError, match="digits:train"):
            prepared_code(model, ddpm.images(data), 3)
    assert not (tmp_path / "kept").exists()


def test_codec_that_was_not_made_is_named_with_its_command(tmp_path: Path):
    bare = ddpm.load(make_linear(ddpm.images("digits:test"), tmp_path / "run"), device="cpu")
    for refused in (
        lambda: ddpm.evaluate_codec(bare, "digits:test", out=tmp_path / "kept", progress=False),
        lambda: prepared_code(bare, ddpm.images("digits:test"), 3),
    ):
        with pytest.raises(InputError, match=f"`ddpm tune codec {tmp_path / 'run'}`"):
            refused()


def test_file_that_does_not_come_back_ends_the_measurement(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def off(codec: Codec, files: list, **options: object) -> list[Decoded]:
        found = decode(codec, files)
        found[-1].image[0, 3, 3] ^= 1
        return found

    monkeypatch.setattr(codec_measurement, "decode", off)
    with pytest.raises(NotVerified, match=r"00002\.dpc"):
        ddpm.evaluate_codec(model, "digits:test", limit=3, out=tmp_path, progress=False)


# ---- other formats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_every_lossless_setting_is_exact_and_lossy_ones_get_better_with_quality(channels: int):
    from sklearn.datasets import load_sample_image

    photograph = np.ascontiguousarray(load_sample_image("flower.jpg")[150:182, 300:340].transpose(2, 0, 1))
    image, found = photograph[:channels], {}
    for one in settings():
        back = one.decode(one.encode(image))[:channels]
        assert back.shape == image.shape
        assert not one.lossless or (back == image).all()
        found.setdefault((one.name, one.lossless), []).append(psnr(back, image))
    assert {("PNG", True), ("WebP", True), ("WebP", False), ("JPEG", False)} <= set(found)
    for (name, lossless), decibels in found.items():
        assert lossless or decibels[-1] > decibels[0] + 10, name


def test_other_formats_are_measured_as_whole_files():
    images = [ddpm.images("digits:test")[k] for k in range(3)]
    found = list(measure_others(images))
    assert [(one.name, one.choice, one.psnr is None) for one in found] == [
        (one.name, one.choice, one.lossless) for one in settings()
    ]
    for one, setting in zip(found, settings(), strict=True):
        assert one.bytes == pytest.approx(np.mean([len(setting.encode(image)) for image in images]))


def test_smallest_webp_is_one_of_the_settings():
    image = ddpm.images("digits:test")[0]
    found, size = smallest_webp(image)
    lowest = next(one for one in settings() if (one.name, one.choice) == ("WebP", "quality 0"))
    data = lowest.encode(image)
    assert (size, found.shape) == (len(data), image.shape)
    assert (found == lowest.decode(data)[:1]).all()


def test_equal_images_have_a_psnr_of_99_and_others_that_of_their_error():
    black = np.zeros((1, 4, 4), np.uint8)
    assert psnr(black, black) == 99.0
    assert psnr(black, black + np.uint8(255)) == 0
    assert psnr(black + np.uint8(1), black) == pytest.approx(20 * np.log10(255))
    assert psnr(black, black + np.uint8(1)) == psnr(black + np.uint8(1), black)
