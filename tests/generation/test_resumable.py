"""Drawing onto the disk: stopped at any moment and started again, it ends in the same files and draws nothing twice."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import random
import signal
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawings import (
    BATCH,
    BOTH,
    OUT,
    SAMPLING,
    SEEDS,
    SMALL,
    Fake,
    contents,
    drawing,
    drawn_by,
    fake,
    finished_without_a_stop,
    place_of,
    stopped,
    stopped_at_image,
)
from filelock import FileLock
from PIL import Image

from ddpm.base.geometry import Geometry
from ddpm.base.image_io import MODES, save_folder
from ddpm.base.npz import read_own_arrays
from ddpm.base.tables import signed
from ddpm.errors import DamagedFile, DdpmError, InputError
from ddpm.generation import batches
from ddpm.generation.batches import batch_name, batches_in, images_at, places_in, write_batch
from ddpm.generation.draw import draw, labels_for, plan_for, protocol
from ddpm.generation.image_folder import FORMAT, open_image_folder, protocol_of, seeds_in, write_protocol
from ddpm.generation.resumable import Drawing
from ddpm.model.model import Model
from ddpm.samplers.plan import Sampling
from scorings import stored_model

# ---- what is written ------------------------------------------------------------------------------------------------


def test_a_folder_holds_the_models_own_images_by_seed_and_how_they_were_drawn(model: Model, tmp_path: Path):
    seeds, out = [5, 1, 12_345_678], tmp_path / "new" / "images"
    drawing(model, seeds, SAMPLING, out).draw()
    assert seeds_in(out) == set(seeds)
    shown = contents(out)
    assert shown.keys() == {"000001.png", "000005.png", "12345678.png", "sampling.json", "sampling.jsonl"}
    save_folder(draw(model, seeds, plan_for(model, SAMPLING)), tmp_path / "plain", names=seeds)
    assert contents(tmp_path / "plain").items() <= shown.items()
    assert protocol_of(out) == json.loads(json.dumps(protocol(model, plan_for(model, SAMPLING))))


def test_an_array_holds_them_in_the_order_asked_for_with_repeats_and_numpy_reads_it(model: Model, tmp_path: Path):
    seeds, out = [5, 1, 3, 1, 5, 5], tmp_path / "new" / "a.npz"
    drawing(model, seeds, SAMPLING, out).draw(batch_size=2)
    with np.load(out, allow_pickle=False) as held:
        assert sorted(held.files) == ["arr_0", "protocol", "seeds"]
        assert held["seeds"].tolist() == seeds
        assert (held["arr_0"].dtype, held["arr_0"].shape) == (np.uint8, (6, 4, 4, 1))
        assert json.loads(str(held["protocol"])) == json.loads(json.dumps(protocol(model, plan_for(model, SAMPLING))))
        expected = torch.cat([draw(model, part, plan_for(model, SAMPLING)) for part in ([5, 1], [3])])[
            [0, 1, 2, 1, 0, 0]
        ]
        np.testing.assert_array_equal(held["arr_0"], expected.permute(0, 2, 3, 1).numpy())
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.npz"]


def test_classes_are_those_of_the_images(tmp_path: Path):
    model = stored_model(tmp_path / "model", ("a", "b", "c"), network={"classes": 3})
    for name, labels in ((None, labels_for(model, [4, 2, 9]).tolist()), ("c", [2, 2, 2])):
        sampling = dataclasses.replace(SAMPLING, class_name=name)
        drawing(model, [4, 2, 9], sampling, tmp_path / "a.npz").draw()
        with np.load(tmp_path / "a.npz") as held:
            assert (held["arr_1"].dtype, held["arr_1"].tolist()) == (np.int64, labels)
            expected = draw(model, [4, 2, 9], plan_for(model, sampling)).permute(0, 2, 3, 1)
            np.testing.assert_array_equal(held["arr_0"], expected.numpy())


@pytest.mark.parametrize("channels", MODES)
def test_the_array_and_the_folder_and_what_is_read_from_it_are_the_same_images(channels: int, tmp_path: Path):
    options: dict[str, Any] = {"geometry": Geometry(channels, 4, 6), "seeds": [3, 0, 8, 5, 1]}
    for out in OUT.values():
        fake(tmp_path / out, **options).draw(batch_size=BATCH)
    there = open_image_folder(tmp_path / "images")
    assert there.seeds == (0, 1, 3, 5, 8)
    read = list(there.batches([3, 0, 8, 5, 1], batch_size=2))
    assert [batch.shape for batch in read] == [(2, channels, 4, 6), (2, channels, 4, 6), (1, channels, 4, 6)]
    with np.load(tmp_path / "a.npz") as held:
        np.testing.assert_array_equal(torch.cat(read).permute(0, 2, 3, 1).numpy(), held["arr_0"])
        rising = held["arr_0"][[1, 4, 0, 3, 2]]
    np.testing.assert_array_equal(torch.cat(list(there.batches())).permute(0, 2, 3, 1).numpy(), rising)


@BOTH
def test_a_seed_that_comes_twice_is_drawn_once(out: str, tmp_path: Path):
    found = fake(tmp_path / out, [4, 4, 2, 4])
    assert found.missing() == [4, 2]
    found.draw()
    assert drawn_by(found) == [4, 2]


@BOTH
def test_no_seeds_are_refused(out: str, tmp_path: Path):
    with pytest.raises(InputError, match="no seeds"):
        fake(tmp_path / out, [])
    assert list(tmp_path.iterdir()) == []


# ---- stopped and started again --------------------------------------------------------------------------------------


@BOTH
def test_it_tells_beforehand_what_is_missing_and_draws_only_that(out: str, tmp_path: Path):
    """Two steps a batch: the third step is the first of the second batch."""
    found = fake(tmp_path / out)
    assert found.missing() == SEEDS
    assert list(tmp_path.iterdir()) == [], "asking leaves nothing behind"
    stopped(found, after=3)
    assert drawn_by(found) == [0, 1, 2]
    again, told = fake(tmp_path / out), []
    assert again.missing() == [3, 4, 5, 6]
    again.draw(batch_size=BATCH, advance=told.append)
    assert drawn_by(again) == [3, 4, 5, 6]
    assert told == [3, 3, 1, 1]
    assert contents(tmp_path / out) == finished_without_a_stop(tmp_path / "once" / out)
    last = fake(tmp_path / out)
    assert last.missing() == []
    last.draw(batch_size=BATCH)
    assert drawn_by(last) == []


@BOTH
def test_a_model_stopped_at_every_step_ends_in_the_same_pixels_and_calls_its_network_no_more_than_once_a_step(
    out: str, model: Model, tmp_path: Path
):
    """Each attempt comes one step farther; what is called in vain are the steps of the batch in hand."""
    calls: list[int] = []
    model.network.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    drawing(model, SEEDS, SAMPLING, tmp_path / "once" / out).draw(batch_size=BATCH)
    assert sum(calls) == 3 * len(SEEDS)
    for done in range(9):
        calls.clear()
        there = tmp_path / str(done) / out
        stopped(drawing(model, SEEDS, SAMPLING, there), after=done)
        left = drawing(model, SEEDS, SAMPLING, there)
        assert left.missing() == SEEDS[done // 3 * BATCH :]
        calls.clear()
        left.draw(batch_size=BATCH)
        assert sum(calls) == 3 * len(SEEDS[done // 3 * BATCH :])
        assert contents(there) == contents(tmp_path / "once" / out)


def forked(work: Callable[[], object]) -> int:
    """The number of a process that does this and ends."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of threads, which are all asleep
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def ending(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


CHANGES = ("replace", "unlink", "mkdir", "rmdir")


def changes_of(found: Drawing, die_at: int | None = None) -> list[str]:
    """Draw; the changes of the disk that were made, in order; it is killed before the one of this number."""
    made: list[str] = []

    def counted(name: str, plain: Callable[..., Any], path: Any, *args: Any, **options: Any) -> Any:
        if len(made) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        made.append(f"{name} {os.path.basename(args[0] if name == 'replace' else path)}")
        return plain(path, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, functools.partial(counted, name, getattr(os, name)))
        found.draw(batch_size=BATCH)
    return made


def one_of_each_kind(made: list[str]) -> list[int]:
    """The first and the last change of every name, whichever image it is of."""
    kinds: dict[str, list[int]] = {}
    for number, change in enumerate(made):
        kinds.setdefault("".join(letter for letter in change if not letter.isdigit()), []).append(number)
    return sorted({number for numbers in kinds.values() for number in (numbers[0], numbers[-1])})


def every_one(made: list[str]) -> list[int]:
    return list(range(len(made)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork and SIGKILL are needed")
@BOTH
@pytest.mark.parametrize("choose", [one_of_each_kind, pytest.param(every_one, marks=pytest.mark.slow)])
def test_killed_between_any_two_changes_of_the_disk_it_ends_in_the_same_pixels(
    choose: Callable[[list[str]], list[int]], out: str, tmp_path: Path
):
    """The fake's images tell their batch: if it were cut otherwise after a kill, they would differ."""
    (tmp_path / "once").mkdir()
    once = fake(tmp_path / "once" / out)
    made, reference, left = changes_of(once), contents(once.out), set()
    assert [change for change in made if "npz" in change or "json" in change], "it sees too little"
    for number in choose(made):
        (tmp_path / str(number)).mkdir()
        attempt = tmp_path / str(number) / out
        assert ending(forked(lambda at=number, to=attempt: changes_of(fake(to), at))) == -signal.SIGKILL
        again = fake(attempt)
        missing = again.missing()
        again.draw(batch_size=BATCH)
        left.add(len(missing))
        assert drawn_by(again) == missing, made[number]
        assert finished(contents(attempt)) == reference, made[number]
        assert finished({path.name: b"" for path in attempt.parent.iterdir()}).keys() == {out}, made[number]
    assert left == {7, 4, 1, 0}, "whole batches"


def finished(contents: dict[str, bytes]) -> dict[str, bytes]:
    return {name: held for name, held in contents.items() if not name.startswith(".unfinished-")}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork and SIGKILL are needed")
@BOTH
def test_killed_again_and_again_at_random_moments_it_ends_in_the_same_pixels(out: str, model: Model, tmp_path: Path):
    """Sixty images of a network."""
    last, once = (drawing(model, range(60), SAMPLING, tmp_path / name / out) for name in ("killed", "once"))
    dice = random.Random(3)
    for target in (45, 20):
        pid = forked(lambda: last.draw(batch_size=BATCH))
        while len(last.missing()) > target:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        assert ending(pid) == -signal.SIGKILL
    assert 0 < len(last.missing()) <= 20
    last.draw(batch_size=BATCH)
    once.draw(batch_size=BATCH)
    assert finished(contents(last.out)) == contents(once.out)


@BOTH
def test_more_seeds_may_be_asked_for_later(out: str, tmp_path: Path):
    stopped(fake(tmp_path / out, range(9)), after=3)
    more = fake(tmp_path / out, [20, *range(9), 21])
    assert more.missing() == [20, *range(3, 9), 21]
    more.draw()
    assert drawn_by(more) == [20, *range(3, 9), 21]
    if out == "images":
        fewer = fake(tmp_path / out, [8, 20])
        fewer.draw()
        assert drawn_by(fewer) == []


@BOTH
def test_two_processes_do_not_draw_into_one_place(out: str, tmp_path: Path):
    found = fake(tmp_path / out)
    folder = tmp_path / place_of(out)
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(InputError, match="another process"):
        found.draw()
    found.draw()


def test_a_million_seeds_are_looked_up_in_one_listing_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake(tmp_path / "images", range(0, 1000, 10)).draw()
    found, plain, looks = fake(tmp_path / "images", range(1_000_000)), os.stat, []
    monkeypatch.setattr(os, "stat", lambda *args, **options: looks.append(args) or plain(*args, **options))
    assert len(found.missing()) == 1_000_000 - 100
    assert len(looks) < 50


def test_memory_holds_one_batch_at_a_time(tmp_path: Path):
    """200 images of 12 kB, 4 at a time: a quarter of the whole leaves room for ten batches."""
    found = fake(tmp_path / "a.npz", range(200), geometry=Geometry(3, 64, 64))
    tracemalloc.start()
    found.draw(batch_size=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 3 * 64 * 64 / 4
    with np.load(tmp_path / "a.npz") as held:
        assert held["arr_0"].shape == (200, 64, 64, 3)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The batches whose images were read."""
    names: list[str] = []

    def counted(path: Path, *arrays: str) -> list[np.ndarray]:
        names.extend([path.name] * ("images" in arrays))
        return read_own_arrays(path, *arrays)

    monkeypatch.setattr(batches, "read_own_arrays", counted)
    return names


def test_images_are_read_when_all_are_drawn_and_when_they_are_packed_and_not_to_be_removed(
    tmp_path: Path, read: list[str]
):
    fake(tmp_path / "a.npz").draw(batch_size=BATCH)
    assert read == 2 * ["000000.npz", "000003.npz", "000006.npz"]


@pytest.mark.parametrize(("batch_size", "reads"), [(1, 9), (3, 9), (5, 6), (9, 3)])
def test_images_in_another_order_are_read_file_by_file(batch_size: int, reads: int, tmp_path: Path, read: list[str]):
    images, seeds = np.random.default_rng(0).integers(0, 256, (9, *SMALL.shape), np.uint8), list(range(9))
    for start in (0, 3, 6):
        write_batch(tmp_path / batch_name(seeds[start:]), seeds[start : start + 3], images[start : start + 3])
    order, places = [0, 3, 6, 1, 4, 7, 2, 5, 8], places_in(tmp_path)
    assert read == []
    found = torch.cat(list(images_at(places, order, SMALL.shape, batch_size)))
    np.testing.assert_array_equal(found.numpy(), images[order])
    assert len(read) == reads
    read.clear()
    assert len(list(images_at(places, seeds, SMALL.shape, batch_size))) == -(-9 // batch_size)
    assert len(read) == 3, "in their own order each is read once"


# ---- whose images they are ----------------------------------------------------------------------------------------


@BOTH
def test_images_drawn_another_way_are_left_alone_and_the_sentence_says_what_differs(out: str, tmp_path: Path):
    stopped(fake(tmp_path / out), after=3)
    other = fake(tmp_path / out, sampling=Sampling(steps=10))
    place = place_of(out)
    before = contents(tmp_path / place)
    for attempt in (other.missing, other.draw):
        with pytest.raises(InputError, match=f"{place}' .*steps is 3 there and 10 here"):
            attempt()
    assert drawn_by(other) == []
    assert contents(tmp_path / place) == before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"variance": "large"}, "variance is small there and large here"),
        ({"sampler": "ddim"}, "sampler is ancestral there and ddim here"),
        ({"sampler": "ddim", "steps": 4}, "sampler is ancestral there and ddim here"),
        ({"threshold": "none"}, "threshold is static there and none here"),
        ({"precision": "bfloat16"}, "precision is float32 there and bfloat16 here"),
    ],
)
def test_every_choice_of_how_is_told_apart(changes: dict[str, Any], sentence: str, model: Model, tmp_path: Path):
    base = dataclasses.replace(SAMPLING, sampler="ancestral")
    drawing(model, [0], base, tmp_path / "images").draw()
    with pytest.raises(InputError, match=sentence):
        drawing(model, [1], dataclasses.replace(base, **changes), tmp_path / "images").missing()


@BOTH
def test_images_from_the_noise_of_an_older_version_are_read_and_never_mixed_with_new_ones(out: str, tmp_path: Path):
    """Such a version said neither noise nor precision, and packed arrays from PNGs."""
    place = tmp_path / place_of(out)
    stopped(fake(tmp_path / "images"), after=3)
    (tmp_path / "images").rename(place)
    old = {key: value for key, value in protocol_of(place).items() if key not in ("noise", "precision")}
    write_protocol(place, old)
    for attempt in (fake(tmp_path / out).missing, fake(tmp_path / out).draw):
        with pytest.raises(InputError, match=f"{place.name}' holds images drawn from the noise of another version"):
            attempt()
    assert sum(map(len, open_image_folder(place).batches())) == 3


def test_other_weights_are_told_apart(model: Model, tmp_path: Path):
    drawing(model, [0], SAMPLING, tmp_path / "images").draw()
    for other, key in ((stored_model(tmp_path / "other", seed=1), "weights_sha256"),
                       (dataclasses.replace(model, weights="raw"), "weights")):  # fmt: skip
        with pytest.raises(InputError, match=f"{key} is .{{1,16}} there and .{{1,16}} here"):
            drawing(other, [1], SAMPLING, tmp_path / "images").missing()


def test_lists_that_differ_are_not_told_number_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake(tmp_path / "images").draw()
    other = fake(tmp_path / "images").protocol | {"levels": [0.25, 0.5]}
    monkeypatch.setattr(Fake, "protocol", lambda *_: other)
    with pytest.raises(InputError, match="levels differ"):
        fake(tmp_path / "images").missing()


def test_an_emptied_folder_may_be_used_for_anything(tmp_path: Path):
    fake(tmp_path / "images").draw()
    for path in (tmp_path / "images").glob("*.png"):
        path.unlink()
    fake(tmp_path / "images", sampling=Sampling(steps=10)).draw(batch_size=BATCH)
    assert contents(tmp_path / "images") == finished_without_a_stop(tmp_path / "b", sampling=Sampling(steps=10))


@pytest.mark.parametrize("name", ["000003.png", "000900.png"])
def test_images_of_unknown_origin_are_neither_replaced_nor_taken_for_ours(name: str, tmp_path: Path):
    """Not even those that nobody asked for: a later drawing with more seeds would take them for done."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / name).write_text("somebody's")
    for attempt in (fake(tmp_path / "images").missing, fake(tmp_path / "images").draw):
        with pytest.raises(InputError, match=r"images' .* no sampling\.json"):
            attempt()
    assert {path.name: path.read_text() for path in (tmp_path / "images").iterdir() if path.name != ".lock"} == {
        name: "somebody's"
    }


def test_files_with_other_names_stay_where_they_are(tmp_path: Path):
    names = ["3.png", "0000003.png", "000003.jpg", "000003.PNG", "cat.png", "neighbours.png", ".unfinished-000003.png"]
    (tmp_path / "images").mkdir()
    for name in names:
        (tmp_path / "images" / name).write_text("somebody's")
    fake(tmp_path / "images").draw()
    assert open_image_folder(tmp_path / "images").seeds == tuple(SEEDS)
    assert all((tmp_path / "images" / name).read_text() == "somebody's" for name in names[:-1])


def test_a_finished_array_of_these_images_stays_and_any_other_file_is_replaced(tmp_path: Path):
    out, expected = tmp_path / "a.npz", finished_without_a_stop(tmp_path / "once.npz")
    out.write_text("old")
    fake(out).draw(batch_size=BATCH)
    assert contents(out) == expected
    when = out.stat().st_mtime_ns
    fake(out).draw(batch_size=2)
    assert out.stat().st_mtime_ns == when
    for others in ({"seeds": SEEDS[::-1]}, {"seeds": SEEDS[:-1]}, {"sampling": Sampling(steps=10)}):
        found = fake(out, **others)
        assert len(found.missing()) == len(found.seeds)
        found.draw()
        assert contents(out) != expected
    np.savez_compressed(out, arr_0=np.zeros(3))
    fake(out).draw(batch_size=BATCH)
    assert contents(out) == expected


def test_images_of_other_seeds_for_an_array_are_never_thrown_away(tmp_path: Path):
    """Of nine seeds some were drawn when it was stopped; fewer are asked for before and after that, then the nine."""
    out, place = tmp_path / "a.npz", tmp_path / "a.npz.parts"
    fake(out, [0, 1, 2]).draw()
    stopped(fake(out, range(9)), after=5)
    assert [path.name for path in batches_in(place)] == ["000000.npz", "000003.npz"]
    for seeds in ([0, 1, 2], [2, 0], [2, 0], [1]):
        fewer = fake(out, seeds)
        fewer.draw(batch_size=BATCH)
        assert drawn_by(fewer) == []
        with np.load(out) as held:
            assert held["seeds"].tolist() == seeds
    last = fake(out, range(9))
    assert last.missing() == [6, 7, 8]
    last.draw(batch_size=BATCH)
    assert contents(out) == finished_without_a_stop(tmp_path / "once.npz", seeds=range(9))
    assert not place.exists()


def test_a_finished_array_leaves_alone_what_another_process_is_drawing(tmp_path: Path):
    fake(tmp_path / "a.npz", range(4)).draw()
    stopped(fake(tmp_path / "a.npz", range(4, 9)), after=2)  # nothing of it is there yet, but for its folder
    with FileLock(tmp_path / "a.npz.parts" / ".lock"):
        fake(tmp_path / "a.npz", range(4)).draw()
    assert (tmp_path / "a.npz.parts").is_dir()


# ---- damage, and places that do not fit -----------------------------------------------------------------------------


def test_a_flipped_bit_or_a_cut_in_what_says_how_is_damage(tmp_path: Path):
    fake(tmp_path / "images").draw()
    file = tmp_path / "images" / "sampling.json"
    content = file.read_bytes()
    spoilt = [content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :] for place in range(len(content) - 1)]
    for other in [*spoilt, b"", content[:-20], b"[]", b"\xff"]:
        file.write_bytes(other)
        with pytest.raises(DdpmError) as raised:
            fake(tmp_path / "images").missing()
        newer = "newer ddpm" in str(raised.value)
        assert isinstance(raised.value, InputError if newer else DamagedFile), str(raised.value)
        assert "sampling.json" in str(raised.value)


def test_a_newer_format_is_refused_as_such(tmp_path: Path):
    fake(tmp_path / "images").draw()
    table = signed({"format": FORMAT, "format_version": 99, "protocol": {}})
    (tmp_path / "images" / "sampling.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match="newer ddpm"):
        fake(tmp_path / "images").missing()


def test_a_batch_that_is_damaged_is_refused_by_name_and_without_it_the_drawing_goes_on(tmp_path: Path):
    """Every byte of a batch in turn; bits that say nothing (times, flags) may pass, if the images are the same."""
    out = tmp_path / "images"
    expected = finished_without_a_stop(tmp_path / "once")
    stopped_at_image(fake(out), 1)
    file = out / ".batch.npz"
    content, (_, expected_images) = file.read_bytes(), read_own_arrays(file, "seeds", "images")
    for spot in range(0, len(content), 3):
        file.write_bytes(content[:spot] + bytes([content[spot] ^ (1 << spot % 8)]) + content[spot + 1 :])
        with contextlib.suppress(DamagedFile):
            seeds, images = read_own_arrays(file, "seeds", "images")
            assert seeds.tolist() == [0, 1, 2]
            np.testing.assert_array_equal(images, expected_images)
    file.write_bytes(content[:-1])
    with pytest.raises(DamagedFile, match=file.name):
        fake(out).draw(batch_size=BATCH)
    file.unlink()
    fake(out).draw(batch_size=BATCH)
    assert contents(out) == expected


@pytest.mark.parametrize("content", [b"", b"old", "half", "other size"])
def test_reading_a_image_that_is_damaged_names_it(content: bytes | str, tmp_path: Path):
    fake(tmp_path / "images", geometry=Geometry(1, 30, 30)).draw()
    file = tmp_path / "images" / "000003.png"
    if content == "other size":
        Image.new("L", (2, 2)).save(file)
    else:
        file.write_bytes(content if isinstance(content, bytes) else file.read_bytes()[:400])
    with pytest.raises(DamagedFile, match=r"000003\.png' is missing or damaged"):
        list(open_image_folder(tmp_path / "images").batches())
    with pytest.raises(DamagedFile, match=r"000099\.png' is missing"):
        next(open_image_folder(tmp_path / "images").batches([99]))


def test_only_folders_that_were_drawn_are_read(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert protocol_of(folder) is None
        with pytest.raises(InputError, match=r"no sampling\.json"):
            open_image_folder(folder)


def test_places_that_cannot_be_written_are_refused_before_anything_is_drawn(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npz").mkdir()
    for out in ("file", "file/below", "folder.npz", "file/a.npz"):
        found = fake(tmp_path / out)
        for attempt in (found.missing, found.draw):
            with pytest.raises(InputError, match=out.split("/")[0]):
                attempt()
        assert drawn_by(found) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.npz"]


@BOTH
def test_a_full_disk_loses_nothing_that_was_drawn(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    owner, name, room = (Image.Image, "save", 4) if out == "images" else (np, "savez", 2)  # PNGs, or batches
    plain, saved = getattr(owner, name), []

    def save(*given: Any, **named: Any) -> None:
        if len(saved) == room:
            raise OSError(28, "No space left on device")
        saved.append(given)
        plain(*given, **named)

    monkeypatch.setattr(owner, name, save)
    with pytest.raises(InputError, match="No space left on device"):
        fake(tmp_path / out).draw(batch_size=BATCH)
    monkeypatch.setattr(owner, name, plain)
    again = fake(tmp_path / out)
    again.draw(batch_size=BATCH)
    assert drawn_by(again) == [6]
    assert contents(tmp_path / out) == finished_without_a_stop(tmp_path / "once" / out)


def test_only_what_ends_in_npz_is_an_array(tmp_path: Path):
    fake(tmp_path / "a.npz").draw()
    fake(tmp_path / "v1.5").draw()
    assert (tmp_path / "a.npz").is_file()
    assert seeds_in(tmp_path / "v1.5") == set(SEEDS)


def test_a_run_is_no_folder_for_images(model: Model, tmp_path: Path):
    found = drawing(model, [0], SAMPLING, tmp_path / "model")
    for attempt in (found.missing, found.draw):
        with pytest.raises(InputError, match="model' is a run"):
            attempt()
    assert seeds_in(tmp_path / "model") == set()


def test_arrays_are_stored_so_that_other_tools_can_read_them_as_a_stream(tmp_path: Path):
    fake(tmp_path / "a.npz").draw()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.namelist() == ["arr_0.npy", "seeds.npy", "protocol.npy"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_random_orders_and_repeats_come_out_as_asked_for(tmp_path: Path):
    """Three drawings of any seeds, some below 0: the array is the folder's images, looked up one by one."""
    dice = random.Random(1)
    for round_ in range(3):
        seeds = [dice.randrange(-8, 12) for _ in range(30)]
        for out in ("images", "a.npz"):
            stopped(fake(tmp_path / str(round_) / out, seeds), after=3)
            fake(tmp_path / str(round_) / out, seeds).draw(batch_size=7)
        (shown,) = open_image_folder(tmp_path / str(round_) / "images").batches(seeds)
        with np.load(tmp_path / str(round_) / "a.npz") as held:
            np.testing.assert_array_equal(held["arr_0"], shown.permute(0, 2, 3, 1).numpy())
