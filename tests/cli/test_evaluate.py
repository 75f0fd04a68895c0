"""ddpm evaluate: every metric as text and JSON; are the pictures copies of the training images?"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from commandline import TINY, done, drawn, read_grid, sentence, type_in
from PIL import Image

from ddpm.evaluation import METRICS

FIELDS = {"samples", "held_out", "training", "median", "held_out_median", "ratio", "copies"}


def refuse_nan(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


WORDS = {
    "bits": ("--calls", "300"),
    "rate": ("--calls", "30", "--keep", "kept"),
    "ode": ("--calls", "10", "--steps", "1"),
    "neighbours": ("--samples", "4"),
    "fid": ("--samples", "64", "--features", "pixels"),
    "kid": ("--samples", "64", "--features", "pixels"),
}
BESIDE = {"fid": {"kid", "protocol"}, "kid": {"protocol"}}  # few images are never judged by fid alone


def untimed(text: str) -> dict[str, dict[str, object]]:
    """The JSON of a result without the seconds it took."""
    found = json.loads(text, parse_constant=refuse_nan)
    for table in found.values():
        table.pop("seconds", None)
    return found


def test_every_metric_has_its_words_here_or_a_file_of_its_own():
    assert {*WORDS, "codec"} == set(METRICS)  # the codec's tests are in test_compress.py: it wants one that was made


@pytest.mark.parametrize("metric", WORDS)
def test_every_metric_is_reported_as_text_and_as_stable_json(metric: str, digits_run: Path):
    words = ("evaluate", digits_run, "--data", "digits:test", "--metric", metric, *WORDS[metric])
    first, second = (done(*words, "--json") for _ in range(2))
    assert list(untimed(first.out).items()) == list(untimed(second.out).items())
    assert set(untimed(first.out)) == {metric} | BESIDE.get(metric, set())
    assert done(*words).out.count("\n") >= 2
    progress = r"(Sampling|Network calls|Features|Features of the reference): [\d,]+ of [\d,]+"
    cost = r"[\d,]+ network calls\b.*\.|Drawing by .*\.|ddpm: .* are few for a Fréchet distance .*\."
    assert all(re.fullmatch(f"{progress}|{cost}", line) for line in first.err.splitlines()), first.err


def test_neighbours_count_and_compare(digits_run: Path):
    words = ("--data", "digits:test[0:50]", "--metric", "neighbours", "--samples", "6", "--json")
    found = json.loads(done("evaluate", digits_run, *words).out)["neighbours"]
    assert set(found) == FIELDS
    assert (found["samples"], found["held_out"], found["training"]) == (6, 50, 1500)
    assert found["ratio"] == pytest.approx(found["median"] / found["held_out_median"])
    training = np.load(digits_as_array("digits:train"))
    samples = drawn(digits_run, "--seeds", "0-5").reshape(6, -1).astype(float)
    distances = np.sqrt(((samples[:, None] - training[None]) ** 2).sum(-1)).min(1)
    assert found["median"] == pytest.approx(np.median(distances), rel=1e-5)


def digits_as_array(src: str) -> str:
    import ddpm

    images = ddpm.images(src).array()
    np.save("digits.npy", images.reshape(len(images), -1).astype(float))
    return "digits.npy"


def test_kept_picture_shows_samples_beside_their_nearest(digits_run: Path):
    words = ("--data", "digits:test", "--metric", "neighbours", "--samples", "3", "--steps", "4", "--keep", "kept")
    assert "kept/neighbours.png" in done("evaluate", digits_run, *words).err
    assert [file.name for file in Path("kept").iterdir()] == ["neighbours.png"]
    rows = read_grid(Path("kept/neighbours.png"), columns=8, size=(8, 8)).reshape(3, 8, 8, 8)
    assert (rows[:, 0] == drawn(digits_run, "--seeds", "0-2", "--steps", "4")[..., 0]).all()
    training = np.load(digits_as_array("digits:train"))
    for row in rows.reshape(3, 8, 64).astype(float):
        distances = np.sqrt(((row[1:] - row[0]) ** 2).sum(-1))
        assert (np.diff(distances) >= 0).all()
        assert distances[0] == np.sqrt(((training - row[0]) ** 2).sum(-1)).min()


def test_size_and_fit_of_the_run_are_applied(photos_run: Path, photos: Path):
    Path("mirrored").mkdir()
    for file in photos.iterdir():
        Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(Path("mirrored", f"{file.stem}.png"))
    words = ("--data", "mirrored", "--metric", "neighbours", "--samples", "2", "--steps", "2", "--json")
    found = json.loads(done("evaluate", photos_run, *words).out)["neighbours"]
    assert (found["held_out"], found["training"]) == (16, 16)


def test_training_images_that_moved_are_named_by_an_option(here: Path, kinds: Path):
    np.save("old.npy", np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8))
    np.save("other.npy", np.random.default_rng(1).integers(0, 256, (9, 8, 8), np.uint8))
    done("train", "small", "--data", "old.npy", "--out", "run", *TINY)
    Path("old.npy").rename("new.npy")
    words = ("evaluate", "run", "--data", "other.npy", "--metric", "neighbours", "--samples", "2")
    said = sentence(type_in(*words))
    assert "old.npy" in said
    assert "--training-data" in said
    assert "9 training images" in done(*words, "--training-data", "new.npy").out


def test_held_out_images_that_are_the_training_images_make_no_traceback(digits_run: Path):
    words = ("--data", "digits:train", "--metric", "neighbours", "--samples", "2", "--steps", "2", "--json")
    end = type_in("evaluate", digits_run, *words)
    if end.code == 0:
        json.loads(end.out, parse_constant=refuse_nan)
    else:
        assert "training images" in sentence(end)
