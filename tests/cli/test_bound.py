"""ddpm evaluate --metric bits, rate and ode: what images cost, what it says of itself, and how it is stopped."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from commandline import FORTY, done, sentence, snapshot, start, type_in
from PIL import Image

import ddpm
from ddpm.model.checkpoint import read_config, write_checkpoint

TERMS = ("total", "prior", "steps", "decoder")
LINE = re.compile(r"^  (\w+) +(-?\d+\.\d+) ± (\d+\.\d+)$", re.MULTILINE)
SHORT = ("--calls", "300")


def timeless(table: dict[str, object]) -> dict[str, object]:
    """A result without what depends on how much was there already."""
    return {key: value for key, value in table.items() if key not in {"seconds", "calls_now"}}


def scored(run: Path, *words: str | Path, data: str | Path = "digits:test") -> dict[str, dict[str, object]]:
    """The JSON of ddpm evaluate."""
    end = done("evaluate", run, "--data", data, *words, "--json")
    return json.loads(end.out, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


def refusal(run: Path, *words: str | Path, data: str | Path = "digits:test", code: int = 2) -> str:
    """The one sentence of an evaluation that must fail, and leaves the folder and the run as they were."""
    before = snapshot(Path.cwd()), snapshot(run)
    said = sentence(type_in("evaluate", run, "--data", data, *words), code)
    assert (snapshot(Path.cwd()), snapshot(run)) == before
    return said


# ---- bits -----------------------------------------------------------------------------------------------------------


def test_bits_are_the_sum_of_their_terms_each_with_an_error(digits_run: Path):
    bits = scored(digits_run, "--metric", "bits", *SHORT)["bits"]
    assert all(set(bits[name]) == {"value", "error"} for name in TERMS)
    total, *parts = (bits[name]["value"] for name in TERMS)
    assert total == pytest.approx(sum(parts), abs=1e-9)
    assert all(bits[name]["error"] > 0 for name in TERMS)
    assert (bits["images"], bits["calls"], bits["weights"]) == (297, 300, "averaged")
    assert (bits["variance"], bits["levels"], bits["of_levels"], bits["clip"]) == ("large", 12, 12, True)
    assert (bits["seed"], bits["side_files"]) == (0, [])


def test_bits_for_a_person_say_the_same_and_how_they_were_made(digits_run: Path):
    words = ("--metric", "bits", *SHORT)
    bits = scored(digits_run, *words)["bits"]
    end = done("evaluate", digits_run, "--data", "digits:test", *words)
    assert "300 network calls, about " in end.err
    shown = {name: (float(value), float(error)) for name, value, error in LINE.findall(end.out)}
    assert list(shown) == list(TERMS)
    for name in TERMS:
        assert shown[name] == pytest.approx((bits[name]["value"], bits[name]["error"]), abs=1e-5)
    for fact in ("297 images", "averaged weights", "variance large", "all 12 levels", "[-1, 1]", "300 network calls"):
        assert fact in end.out
    places = {line.index("±") for line in end.out.splitlines() if LINE.match(line)}
    assert len(places) == 1, "the numbers stand in columns"
    assert max(map(len, end.out.splitlines())) <= 120 + len(str(digits_run))


def test_bits_use_4096_calls_unless_told_otherwise(digits_run: Path):
    assert scored(digits_run, "--metric", "bits")["bits"]["calls"] == 4096


def test_bits_are_those_of_the_library(digits_run: Path):
    found = ddpm.bits_per_dim(ddpm.load(digits_run), ddpm.images("digits:test"), calls=300, seed=3, limit=20)
    bits = scored(digits_run, "--metric", "bits", *SHORT, "--seed", "3", "--limit", "20")["bits"]
    assert bits["total"]["value"] == pytest.approx(found.total.value, rel=1e-6)
    assert bits["images"] == found.images == 20


@pytest.mark.parametrize("option", [("--variance", "small"), ("--weights", "raw"), ("--seed", "1"), ("--limit", "30")])
def test_option_changes_the_number(option: tuple[str, str], digits_run: Path):
    usual = scored(digits_run, "--metric", "bits", *SHORT)["bits"]
    other = scored(digits_run, "--metric", "bits", *SHORT, *option)["bits"]
    assert other["total"]["value"] != usual["total"]["value"]
    assert option[0] == "--limit" or str(other[option[0].removeprefix("--")]) == option[1]


def test_batch_size_changes_nothing_but_rounding(digits_run: Path):
    one, other = (scored(digits_run, "--metric", "bits", *SHORT, "--batch-size", n)["bits"] for n in ("7", "300"))
    assert one["total"]["value"] == pytest.approx(other["total"]["value"], rel=1e-5)


# ---- the full sum ---------------------------------------------------------------------------------------------------

FULL = ("--metric", "bits", "--full")


def test_full_sum_agrees_with_the_estimate_and_names_its_folder(digits_run: Path):
    bits = scored(digits_run, *FULL, "--limit", "100", "--keep", "kept")["bits"]
    quick = scored(digits_run, "--metric", "bits", "--limit", "100")["bits"]
    assert bits["calls"] == 100 * 12
    apart = abs(bits["total"]["value"] - quick["total"]["value"])
    assert apart < 5 * quick["total"]["error"] + 5 * bits["total"]["error"]
    assert [path.parent.parent for path in Path().glob("kept/full-*/shard-*.npz")] == [Path("kept")]


def test_full_sum_again_computes_nothing_and_says_the_same(digits_run: Path):
    words = (*FULL, "--limit", "20", "--keep", "kept")
    first = scored(digits_run, *words)["bits"]
    held = snapshot(Path("kept"))
    end = done("evaluate", digits_run, "--data", "digits:test", *words, "--json")
    assert "Network calls" not in end.err
    again = json.loads(end.out)["bits"]
    assert again["calls_now"] == 0
    assert timeless(again) == timeless(first)
    assert snapshot(Path("kept")) == held


def test_shards_of_several_processes_merge_into_the_whole_sum(forty_run: Path):
    whole = scored(forty_run, *FULL, "--keep", "whole")["bits"]
    part = scored(forty_run, *FULL, "--keep", "kept", "--shard", "2/2")["bits"]
    assert "total" not in part
    assert (part["shards"], part["missing"]) == (2, 1)
    assert (
        "1 of 2" in done("evaluate", forty_run, "--data", "digits:test", *FULL, "--keep", "kept", "--shard", "2/2").out
    )
    merged = scored(forty_run, *FULL, "--keep", "kept", "--shard", "1/2")["bits"]
    assert timeless(merged) == timeless(whole)


def test_rate_reads_the_same_full_sum(digits_run: Path):
    both = scored(digits_run, *FULL, "--metric", "rate", "--limit", "20", "--keep", "kept")
    assert len(list(Path().glob("kept/full-*"))) == 1
    table = json.loads(Path("kept/rate.json").read_text())
    assert table["total"] == pytest.approx(both["bits"]["total"]["value"])
    assert table["prior"] == pytest.approx(both["bits"]["prior"]["value"])


def test_another_question_never_reads_the_shards_of_this_one(digits_run: Path):
    asked = [(), ("--variance", "small"), ("--weights", "raw"), ("--seed", "1"), ("--limit", "19")]
    found = [scored(digits_run, *FULL, *("--limit", "20"), *more, "--keep", "kept") for more in asked]
    assert len(list(Path().glob("kept/full-*"))) == len(asked)
    assert len({table["bits"]["total"]["value"] for table in found}) == len(asked)


@pytest.mark.parametrize("damage", ["cut short", "emptied", "a flipped bit"])
def test_damaged_shard_is_exit_4_and_the_way_on_is_said(damage: str, digits_run: Path):
    words = (*FULL, "--limit", "5", "--keep", "kept")
    first = scored(digits_run, *words)["bits"]
    (shard,) = Path().glob("kept/full-*/shard-*.npz")
    data = shard.read_bytes()
    broken = bytearray(data)
    broken[len(data) // 2] ^= 1
    shard.write_bytes({"cut short": data[:300], "emptied": b"", "a flipped bit": bytes(broken)}[damage])
    end = type_in("evaluate", digits_run, "--data", "digits:test", *words)
    assert (end.code, end.out) == (4, "")
    assert f"'{shard}'" in end.err.splitlines()[-1]
    assert "Traceback" not in end.err
    shard.unlink()
    assert scored(digits_run, *words)["bits"]["total"] == first["total"]


@pytest.mark.parametrize("how", ["Ctrl-C", "kill"])
def test_full_sum_that_was_stopped_goes_on_where_it_was(how: str, forty_run: Path, here: Path):
    words = ("evaluate", forty_run, "--data", "digits:train[0:420]", *FULL, "--keep", "kept")
    child = start(*words, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(here.glob("kept/full-*/shard-*.npz")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGINT if how == "Ctrl-C" else signal.SIGKILL)
    out, err = (stream.decode() for stream in child.communicate(timeout=60))
    assert out == ""
    assert "Traceback" not in err
    if how == "Ctrl-C":
        assert child.returncode == 130
        assert err.splitlines()[-1].startswith("ddpm: stopped")
        assert sum(line.startswith("ddpm:") for line in err.splitlines()) == 1
        assert not list(here.glob("kept/full-*/.unfinished-*"))
    held = {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in here.glob("kept/full-*/shard-*.npz")}
    assert 0 < len(held) < 3
    end = done(*words, "--json")
    assert all((file.stat().st_mtime_ns, file.stat().st_ino) == stamp for file, stamp in held.items())
    assert len(list(here.glob("kept/full-*/shard-*.npz"))) == 3
    assert not list(here.glob("kept/full-*/.unfinished-*"))
    assert json.loads(end.out)["bits"]["calls"] == 420 * 40


# ---- rate -----------------------------------------------------------------------------------------------------------


def test_rate_is_laid_out_as_the_papers_table_and_kept_in_three_files(forty_run: Path):
    words = ("evaluate", forty_run, "--data", "digits:test", "--metric", "rate", "--calls", "400", "--keep", "kept")
    end = done(*words)
    rows = re.findall(r"^ +(\d+) +(\d+) +(\d+\.\d+) +(\d+\.\d+) ± \d+\.\d+$", end.out, re.MULTILINE)
    assert [int(row[0]) for row in rows] == list(range(40, 0, -4))
    assert [int(row[0]) + int(row[1]) for row in rows] == [41] * 10
    rates, errors = ([float(row[k]) for row in rows] for k in (2, 3))
    assert rates == sorted(rates, reverse=True)
    assert errors[0] < errors[-1]
    header = next(line for line in end.out.splitlines() if "rate (bits/dim)" in line)
    assert len({len(line) for line in end.out.splitlines() if "±" in line} | {len(header)}) == 1, "columns are aligned"
    assert sorted(snapshot(Path("kept"))) == ["rate.csv", "rate.json", "rate.png"]
    assert all(name in end.out for name in ("rate.png", "rate.json", "rate.csv"))
    assert Image.open("kept/rate.png").size[0] > 400


def test_rate_files_hold_every_level_and_agree(forty_run: Path):
    found = scored(forty_run, "--metric", "rate", "--calls", "400", "--keep", "kept")["rate"]
    table = json.loads(Path("kept/rate.json").read_text())
    with Path("kept/rate.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["t"]) for row in rows] == [row["t"] for row in table["steps"]] == list(range(1, 41))
    for row, step in zip(rows, table["steps"], strict=True):
        assert {key: float(value) for key, value in row.items()} == pytest.approx(step)
    by_level = {step["t"]: step for step in table["steps"]}
    assert all(by_level[row["t"]]["rate"] == row["rate"] for row in found["rows"])
    assert table["total"] == pytest.approx(table["prior"] + sum(step["term"] for step in table["steps"]))
    assert by_level[1]["rate"] == pytest.approx(table["total"] - by_level[1]["term"])
    assert by_level[40]["rate"] == pytest.approx(table["prior"])
    assert (table["weights"], table["variance"], table["levels"], table["clip"]) == ("averaged", "large", 40, True)


def test_rate_agrees_with_bits(digits_run: Path):
    words = ("--metric", "bits", "--metric", "rate", "--keep", "kept")
    found = scored(digits_run, *words)
    rate, bits = found["rate"]["rows"][0]["rate"], found["bits"]
    expected = bits["total"]["value"] - bits["decoder"]["value"]
    assert rate == pytest.approx(expected, abs=6 * (bits["steps"]["error"] + bits["prior"]["error"]))


def test_progress_reaches_its_end(digits_run: Path):
    for metric in ("bits", "rate"):
        words = ("--data", "digits:test", "--metric", metric, "--calls", "500", "--keep", "kept")
        end = done("evaluate", digits_run, *(words if metric == "rate" else words[:-2]))
        done_so_far, total = re.findall(r"Network calls: ([\d,]+) of ([\d,]+)", end.err)[-1]
        assert done_so_far == total


# ---- ode ------------------------------------------------------------------------------------------------------------


def test_ode_says_its_solver_its_trace_and_its_dequantisation(digits_run: Path):
    words = ("--metric", "ode", "--calls", "15", "--steps", "1")
    ode = scored(digits_run, *words)["ode"]
    assert (ode["images"], ode["calls"], ode["steps"], ode["trace"]) == (3, 15, 1, "exact")
    assert ode["total"]["value"] == pytest.approx(ode["flow"]["value"] + ode["decoder"]["value"])
    out = done("evaluate", digits_run, "--data", "digits:test", *words).out
    for fact in ("3 images", "1 Runge-Kutta step", "exact trace", "dequantised", "15 network calls"):
        assert fact in out


def test_bound_and_ode_stand_side_by_side_with_a_place_for_a_real_code(digits_run: Path):
    words = ("--metric", "ode", "--metric", "bits", "--calls", "256", "--steps", "1", "--limit", "2")
    end = done("evaluate", digits_run, "--data", "digits:test", *words)
    header, below = end.out.splitlines()[-2:]
    assert re.fullmatch(r" +bound \(\d+ images\) +ode \(\d+ images\) +real code", header)
    assert re.fullmatch(r" +[\d.]+ ± [\d.]+ +[\d.]+ ± [\d.]+ +not measured", below)
    assert len(header) == len(below)
    found = scored(digits_run, *words)
    assert set(found) == {"bits", "ode", "lengths"}
    for length, metric in (("bound", "bits"), ("ode", "ode")):
        assert found["lengths"][length] == found[metric]["total"] | {"images": found[metric]["images"]}
    assert found["lengths"]["code"] is None


# ---- kinds of models ------------------------------------------------------------------------------------------------

ROWS = {
    f"{prediction} {loss} {variance}": (prediction, loss, variance)
    for prediction in ("mean", "eps")
    for loss, variance in (("bound", "learned"), ("bound", "large"), ("simple", "large"), ("hybrid", "range"))
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_ablation_trains_and_is_scored(row: str):
    prediction, loss, variance = ROWS[row]
    keys = (f"objective.prediction={prediction}", f"objective.loss={loss}", f"process.variance={variance}")
    changes = [word for key in (*keys, "train_images=32") for word in ("--set", key)]
    done("train", "digits", "--out", "run", *FORTY, *changes)
    bits = scored(Path("run"), "--metric", "bits", *SHORT)["bits"]
    assert bits["variance"] == variance
    assert np.isfinite([bits[name]["value"] for name in TERMS]).all()


def test_learned_variances_may_be_replaced_but_not_invented(learned_run: Path, range_run: Path):
    usual = scored(learned_run, "--metric", "bits", *SHORT)["bits"]
    assert usual["variance"] == "learned"
    assert scored(learned_run, "--metric", "bits", *SHORT, "--variance", "learned")["bits"]["total"] == usual["total"]
    assert scored(learned_run, "--metric", "bits", *SHORT, "--variance", "small")["bits"]["total"] != usual["total"]
    assert "learned, large, small" in refusal(learned_run, "--metric", "bits", "--variance", "range")
    assert "range, large, small" in refusal(range_run, "--metric", "bits", "--variance", "learned")


def test_validation_is_logged():
    keys = ("validation=digits:test[0:50]", "training.validate_images=32", "training.validation_calls=256")
    words = [word for key in keys for word in ("--set", key)]
    end = done("train", "digits", "--out", "run", *FORTY, *words)
    lines = [json.loads(line) for line in Path("run/validation.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [32, 64]
    for line in lines:
        parts = sum(line[name]["value"] for name in TERMS[1:])
        assert line["total"]["value"] == pytest.approx(parts)
        assert line["total"]["error"] > 0
    assert re.search(r"^64 images: [\d.]+ ± [\d.]+ bits per dimension on digits:test\[0:50\]", end.err, re.MULTILINE)
    assert "validation.jsonl" in end.out


@pytest.fixture(scope="session")
def digit_kinds_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of digits with their ten classes."""
    run = tmp_path_factory.mktemp("models") / "ten"
    done("train", "digits", "--out", run, *FORTY, "--set", "network.classes=10", "--set", "train_images=32")
    return run


def test_classes_are_matched_by_name(digit_kinds_run: Path):
    images = ddpm.images("digits:test[0:40]")
    pixels, names = images.array(), np.array([images.class_names[k] for k in images.labels])
    np.savez("usual.npz", images=pixels, labels=names.astype(int))
    some = names.astype(int) >= 5
    np.savez("some.npz", images=pixels[some], labels=names[some].astype(int))
    usual = scored(digit_kinds_run, "--metric", "bits", *SHORT, data="digits:test[0:40]")["bits"]
    assert scored(digit_kinds_run, "--metric", "bits", *SHORT, data="usual.npz")["bits"]["total"] == usual["total"]
    assert scored(digit_kinds_run, "--metric", "bits", *SHORT, data="some.npz")["bits"]["images"] == some.sum()


def test_images_without_or_with_strange_classes_are_refused(digit_kinds_run: Path):
    levels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    np.save("plain.npy", levels)
    np.savez("strange.npz", images=levels, labels=[0, 5, 11])
    said = refusal(digit_kinds_run, "--metric", "bits", data="plain.npy")
    assert "plain.npy" in said
    assert "class" in said
    said = refusal(digit_kinds_run, "--metric", "bits", data="strange.npz")
    assert "strange.npz" in said
    assert "11" in said


@pytest.mark.parametrize("metric", ["bits", "rate", "ode"])
def test_network_of_nan_is_refused(metric: str, digits_run: Path):
    newest = digits_run / "checkpoints" / "0000000064"
    config, held = read_config(newest), safetensors.torch.load_file(newest / "model.safetensors")
    broken = {
        name.removeprefix("averaged/"): torch.full_like(held[name], torch.nan) for name in held if "averaged" in name
    }
    write_checkpoint(Path("nan"), recipe=config.recipe, weights={"averaged": broken})
    words = {"bits": SHORT, "rate": ("--calls", "12"), "ode": ("--calls", "10", "--steps", "1")}[metric]
    before = snapshot(Path("nan"))
    end = type_in("evaluate", "nan", "--data", "digits:test", "--metric", metric, *words)
    assert end.code in (2, 4)
    assert end.out == ""
    assert "'nan'" in end.err.splitlines()[-1]
    assert "Traceback" not in end.err
    assert snapshot(Path("nan")) == before


def test_mean_prediction_has_no_ode_and_that_is_said_before_anything_is_computed():
    done("train", "digits", "--out", "run", *FORTY, "--set", "objective.prediction=mean", "--set", "train_images=16")
    for more in ((), ("--metric", "bits")):
        assert "'mean'" in refusal(Path("run"), "--metric", "ode", *more)


# ---- what cannot be -------------------------------------------------------------------------------------------------

REFUSED = {
    "bits --calls 0": "--calls",
    "bits --calls -4": "--calls",
    "bits --calls 100": "256",
    "rate --calls 11": "12",
    "ode --calls 321": "322",
    "ode --steps 0 --calls 10": "steps",
    "ode --steps -1 --calls 10": "steps",
    "bits --limit 0": "--limit",
    "bits --limit -1": "--limit",
    "bits --full --calls 300": "--calls",
    "bits --shard 1/2": "--full",
    "bits --full --shard 0/3": "0/3",
    "bits --full --shard 5/3": "5/3",
    "bits --full --shard 1/0": "1/0",
    "bits --full --shard some": "some",
    "bits --full --shard 1/2/3": "1/2/3",
    "bits --full --shard 1.5/2": "1.5/2",
    "bits --variance medium": "medium",
    "bits --variance learned": "learned",
    "bits --variance optimal": "ddpm tune",
    "bits --levels 3": "ddpm tune",
    "bits --levels 3 --variance small": "small",
    "ode --levels 3": "--levels",
    "ode --full": "--full",
    "neighbours --calls 300": "--calls",
    "neighbours --full": "--full",
    "neighbours --levels 3": "--levels",
    "neighbours --limit 3": "--limit",
    "bits --steps 4": "--steps",
    "bits --samples 4": "--samples",
    "bits --training-data digits:train": "--training-data",
    "bits --keep kept": "--keep",
    "neighbours --seed 3": "--seed",
    "bits --weights best": "best",
    "bits --device abacus": "abacus",
    "beauty": "beauty",
    "bits --metric beauty": "beauty",
    "bits --metric ode --calls 300": "322",
    "rate --keep file": "file",
    "rate --keep file/below": "file",
    "bits --full --keep file": "file",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_is_one_sentence(words: str, digits_run: Path):
    Path("file").write_text("mine")
    assert REFUSED[words] in refusal(digits_run, "--metric", *words.split())


@pytest.mark.parametrize("metric", ["bits", "rate", "ode"])
@pytest.mark.parametrize(
    "data", ["big.npy", "colour.npy", "none.npy", "digits", "digits:test[400:]", "digits:test[5:5]"]
)
def test_images_that_do_not_fit_are_named(metric: str, data: str, digits_run: Path):
    np.save("big.npy", np.zeros((3, 16, 16), np.uint8))
    np.save("colour.npy", np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8))
    np.save("none.npy", np.zeros((0, 8, 8), np.uint8))
    assert data in refusal(digits_run, "--metric", metric, data=data)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_folder_that_cannot_be_written_is_refused_before_anything_is_computed(digits_run: Path):
    Path("locked").mkdir(mode=0o555)
    for words in (("rate",), ("bits", "--full")):
        assert "locked" in refusal(digits_run, "--metric", *words, "--keep", "locked/below")


def test_results_outlive_the_pruning_of_old_checkpoints(forty_run: Path):
    shutil.copytree(forty_run, "run")
    scored(Path("run"), *FULL, "--limit", "5")
    scored(Path("run"), "--metric", "rate", "--calls", "40")
    kept = {Path(name).name for name in snapshot(Path("run"))} & {"rate.json", "rate.png", "shard-000000.npz"}
    assert len(kept) == 3
    done("train", "digits", "--out", "run", *FORTY, "--set", "train_images=160")
    assert kept <= {Path(name).name for name in snapshot(Path("run"))}
