"""ddpm evaluate: four reports as text and as JSON. The numbers are tested in tests/verbs and tests/evaluation."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commandline import done, sentence, snapshot, type_in
from PIL import Image

import ddpm
from ddpm.errors import InputError

FEW = ("--seeds", "0-69", "--steps", "2")
FID = ("--features", "pixels", *FEW)
ROW = re.compile(r"^  (fid|kid)  (-?[\d.]+) ± ([\d.]+) +95 %: (-?[\d.]+) to (-?[\d.]+)", re.MULTILINE)
TERM = re.compile(r"^  (\w+) +(-?\d+\.\d+) ± (\d+\.\d+)$", re.MULTILINE)


def evaluated(what: str, run: Path | str, *words: str | Path, data: str = "digits:test") -> tuple[dict, str]:
    """The JSON and the text of a report."""
    typed = ("evaluate", what, run, "--data", data, *words)
    first = json.loads(done(*typed, "--json").out, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    return first, done(*typed).out


def test_likelihood_is_reported_with_errors_by_its_terms(digits_run: Path):
    words = ("--calls", "300", "--limit", "20", "--seed", "3", "--weights", "raw", "--variance", "small")
    table, text = evaluated("likelihood", digits_run, *words)
    vlb = table["vlb"]
    own = ddpm.evaluate_likelihood(ddpm.load(digits_run, weights="raw"), "digits:test", calls=300, limit=20, seed=3,
                                   variance="small").bound  # fmt: skip
    assert vlb["total"]["value"] == pytest.approx(own.total.value, rel=1e-6)
    assert (vlb["images"], vlb["calls"], table["about"]["weights"], table["about"]["variance"]) == (
        20, 300, "raw", "small")  # fmt: skip
    shown = {name: (float(value), float(error)) for name, value, error in TERM.findall(text)}
    assert list(shown) == ["total", "prior", "steps", "decoder"]
    for name, numbers in shown.items():
        assert numbers == pytest.approx((vlb[name]["value"], vlb[name]["error"]), abs=1e-5)
    for fact in ("20 images", "raw weights", "variance small", "all 12 levels", "[-1, 1]", "bits/dim"):
        assert fact in text
    assert len({line.index("±") for line in text.splitlines() if TERM.match(line)}) == 1, "the numbers stand in columns"


def test_likelihood_by_every_way_at_once(coded: Path):
    words = ("--rate", "--ode", "--solver-steps", "1", "--codec", "--calls", "256", "--limit", "2", "--out", "kept")
    table, text = evaluated("likelihood", coded, *words)
    assert table.keys() >= {"vlb", "rate", "ode", "code"}
    assert {"kept/rate.png", "kept/rate.json", "kept/rate.csv"} == set(table["files"]) == {
        path for path in snapshot(Path()) if "/" in path}  # fmt: skip
    assert Image.open("kept/rate.png").size[0] > 400
    rows = re.findall(r"^ +(\d+) +(\d+) +(\d+\.\d+) +(\d+\.\d+) ± (?:\d+\.\d+|-|nan)", text, re.MULTILINE)
    rates = [float(rate) for _, _, rate, _ in rows]
    assert len(rows) == len(table["rate"]) == 10
    assert rates == sorted(rates, reverse=True)
    for name in ("VLB", "ODE", "code"):
        assert re.search(rf"^  {name} +-?[\d.]+ ± [\d.]+ \(", text, re.MULTILINE), name
    assert all(name in text for name in ("kept/rate.png", "Runge-Kutta", "exact trace"))


def test_full_sum_in_shards_merges_and_is_not_computed_twice(digits_run: Path):
    words = ("evaluate", "likelihood", digits_run, "--data", "digits:train", "--full", "--out", "kept", "--json")
    part = json.loads(done(*words, "--shard", "2/2").out)
    assert (part["missing_shards"], "vlb" in part) == (2, False)
    merged = json.loads(done(*words, "--shard", "1/2").out)
    assert merged["vlb"]["calls"] == 1500 * 12
    held = snapshot(Path("kept"))
    assert len([path for path in held if path.endswith(".npz")]) == 3
    again = done(*words)
    assert json.loads(again.out) == merged
    assert snapshot(Path("kept")) == held
    assert "of 18,000" not in again.err


def test_fid_and_kid_stand_together_with_their_protocol(digits_run: Path):
    table, text = evaluated("fid", digits_run, *FID)
    rows = {name: [float(number) for number in rest] for name, *rest in ROW.findall(text)}
    assert list(rows) == ["fid", "kid"]
    for name, shown in rows.items():
        expected = [table[name]["value"], table[name]["error"], *table[name]["interval"]]
        assert shown == pytest.approx(expected, abs=1e-4 if name == "fid" else 1e-6)
    told = table["protocol"]["samples"]
    assert (told["seeds"], told["model"]["sampler"], told["model"]["steps"]) == ("0-69", "dpm++sde", 2)
    for fact in ("70 samples", "ema weights", "64 images seen", "seeds 0-69", "297 reference images", "64 dimensions"):
        assert fact in text


def test_few_images_are_warned_of_and_kept_samples_are_not_drawn_again(digits_run: Path):
    words = ("evaluate", "fid", digits_run, "--data", "digits:test", *FID, "--keep", "kept", "--save-to", "test.npz")
    first = done(*words)
    assert re.search(r"^ddpm: 70 samples .* are few .*\.$", first.err, re.MULTILINE)
    assert "Sampling: 140 of 140" in first.err
    again = done(*words)
    assert again.out == first.out
    assert "70 of 70 images" in again.err
    (fid, _) = ROW.findall(first.out)
    from_files = done("evaluate", "fid", "kept", "--data", "test.npz", "--features", "pixels").out
    assert ROW.findall(from_files)[0][:3] == fid[:3]
    assert [row[0] for row in ROW.findall(from_files)] == ["fid"]
    assert np.load("test.npz")["mu"].shape == (64,)


def test_memorisation_compares_with_held_out_images(digits_run: Path):
    words = ("--seeds", "0-5", "--steps", "2", "--out", "kept")
    table, text = evaluated("memorisation", digits_run, *words, data="digits:test[0:50]")
    found = table["memorisation"]
    assert (found["samples"], found["held_out"], found["training"]) == (6, 50, 1500)
    assert f"ratio {found['ratio']:.3f}" in text
    assert list(snapshot(Path("kept"))) == ["memorisation.png"]


def test_codec_is_measured_beside_other_formats(coded: Path):
    shutil.copytree(coded, "run")
    typed = ("evaluate", "codec", "run", "--data", "digits:test", "--limit", "2")
    end = done(*typed)
    report = json.loads(Path("run/evaluation/codec.json").read_text())
    files = sorted(Path("run/evaluation/codec").glob("*.dpc"))
    sizes = [file.stat().st_size for file in files]
    assert len(files) == report["images"] == 2
    assert report["lossless"] == pytest.approx(np.mean(sizes))
    assert report["bits_per_dim"] == pytest.approx(8 * np.mean(sizes) / 64)
    assert {"PNG", "WebP", "JPEG"} <= {other["name"] for other in report["others"]}
    assert f"{np.mean(sizes):.1f}" in end.out
    for name in ("codec.png", "codec-strip.png", "codec-bytes.png"):
        assert Image.open(Path("run/evaluation") / name).size[0] > 300
        assert name in end.out + end.err


def test_linear_is_evaluated_like_a_run_but_keeps_nothing_in_the_package():
    np.save("noise.npy", np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8))
    words = ("linear", "--data", "noise.npy", "--limit", "1")
    assert "variational bound" in done("evaluate", "likelihood", *words, "--calls", "256").out
    assert "--out" in sentence(type_in("evaluate", "likelihood", *words, "--rate"))
    assert "--out" in sentence(type_in("evaluate", "codec", *words))
    assert "--training-data" in sentence(type_in("evaluate", "memorisation", *words[:3], "--out", "kept"))


# ---- what every evaluation has in common ----------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["likelihood", "codec", "memorisation", "fid --features pixels"])
def test_mixed_sizes_name_the_option_that_the_command_has(words: str, coded: Path):
    Path("mixed").mkdir()
    for side in (8, 12):
        Image.fromarray(np.full((side, 10), side, np.uint8)).save(f"mixed/{side}.png")
    what, *options = words.split()
    told = sentence(type_in("evaluate", what, coded, "--data", "mixed", *options))
    assert "--fit crop or --fit resize" in told
    assert "8x9" in sentence(type_in("evaluate", what, coded, "--data", "mixed", *options, "--size", "8x9"))


def test_mixed_sizes_are_scored_with_fit_and_two_sources_with_size(digits_run: Path):
    Path("mixed").mkdir()
    for k in range(64):
        noise = np.random.default_rng(k).integers(0, 256, (10 + k % 2, 12), np.uint8)
        Image.fromarray(noise).save(f"mixed/{k:02}.png")
    words = ("evaluate", "likelihood", digits_run, "--data", "mixed", "--calls", "256", "--json")
    found = [json.loads(done(*words, "--fit", fit).out)["vlb"]["total"] for fit in ("crop", "resize")]
    assert found[0] != found[1]
    words = ("evaluate", "fid", "mixed", "--data", "digits:test", "--features", "pixels")
    assert "--size 8" in sentence(type_in(*words))
    assert "1 x 6 x 6" in done(*words, "--size", "6").out


def test_labels_are_mapped_or_ignored(kinds: Path, kinds_run: Path):
    shutil.copytree(kinds / "china", "foreign/Geschirr")
    shutil.copytree(kinds / "flower", "foreign/Blume")
    words = ("evaluate", "likelihood", kinds_run, "--calls", "256", "--json", "--data")
    assert "--labels says how" in sentence(type_in(*words, "foreign"))
    named = json.loads(done(*words, kinds).out)["vlb"]["steps"]["value"]
    mapped = json.loads(done(*words, "foreign", "--labels", "Geschirr=china,Blume=flower").out)
    assert mapped["about"]["labels"] == "classes met as named: Blume as flower, Geschirr as china"
    assert mapped["vlb"]["steps"]["value"] == pytest.approx(named, rel=0.2), "other calls on the same images"
    assert "drawn by the seed" in json.loads(done(*words, "foreign", "--labels", "ignore").out)["about"]["labels"]


def test_training_images_are_said_as_text_and_as_json(digits_run: Path):
    table, text = evaluated("likelihood", digits_run, "--calls", "256", data="digits:train[0:40]")
    assert table["about"]["trained_on"] == {"images": 40, "of": 40}
    assert "All 40 images compared of digits:train[0:40] are images that the model was trained on.\n" in text


def test_a_file_that_cannot_be_written_is_told_with_the_numbers_and_ends_with_exit_code_2(
    digits_run: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*given: object) -> None:
        raise InputError("'kept/rate.png' could not be written: No space left on device.")

    monkeypatch.setattr("ddpm.evaluation.rate_plots.plot_rate_distortion", full)
    end = type_in(
        "evaluate", "likelihood", digits_run, "--data", "digits:test", "--rate", "--limit", "9", "--out", "kept"
    )
    assert end.code == 2
    assert "variational bound" in end.out
    assert end.err.count("ddpm: 'kept/rate.png' could not be written: No space left on device.\n") == 1
    assert sorted(path.name for path in Path("kept").iterdir()) == ["rate.csv", "rate.json"]
