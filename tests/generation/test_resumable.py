"""Drawing onto the disk: stopped at any moment and started again, it ends in the same files and draws nothing twice."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from ddpm import drawn
from ddpm.base.files import signed
from ddpm.base.geometry import Geometry
from ddpm.base.image_io import MODES, save_folder
from ddpm.errors import DamagedFile, DdpmError, InputError
from ddpm.generation.image_folder import kept, protocol_of, seeds_in
from ddpm.generation.resumable import ArrayDrawing, Drawing, FolderDrawing, drawing
from ddpm.model.checkpoint import load_model
from ddpm.model.model import Model
from ddpm.samplers import Sampling
from scorings import stored_model

SAMPLING = Sampling(steps=3)
SEEDS = list(range(7))
BATCH = 3
OUT = {"folder": "pictures", "array": "a.npz"}
SMALL = Geometry(1, 2, 3)
BOTH = pytest.mark.parametrize("out", OUT.values(), ids=OUT)


@dataclasses.dataclass
class Fake:
    """Draws, without a network, pictures that depend on their batch: all of a batch ends in the sum of its seeds."""

    geometry: Geometry = SMALL
    steps: int = 2
    drawn: list[int] = dataclasses.field(default_factory=list)

    def plan(self, sampling: Sampling) -> Sampling:
        return sampling

    def protocol(self, sampling: Sampling) -> dict[str, Any]:
        return {"weights": "averaged", "weights_sha256": "7" * 64, "sampler": "fake", "steps": sampling.steps,
                "levels": (0.25, 1 / 3), "eta": None}  # fmt: skip

    def labels(self, seeds: Sequence[int], name: str | None = None) -> Tensor | None:
        return None

    def draw_batches(
        self, seeds: Sequence[int], sampling: Sampling, *, batch_size: int, on_step: Callable[[int], None]
    ) -> Iterator[tuple[Sequence[int], Tensor]]:
        for start in range(0, len(seeds), batch_size):
            part = seeds[start : start + batch_size]
            for _ in range(self.steps):
                on_step(len(part))
            self.drawn += part
            pictures = [np.random.default_rng(seed).integers(0, 256, self.geometry.shape, np.uint8) for seed in part]
            stacked = np.stack(pictures)
            stacked[:, 0, 0, 0] = sum(part) % 256
            yield part, torch.from_numpy(stacked)


def fake(out: Path, seeds: Sequence[int] = SEEDS, sampling: Sampling = SAMPLING, **options: Any) -> Drawing:
    return drawing(Fake(**options), seeds, sampling, out)  # type: ignore[arg-type]


def drawn_by(found: Drawing) -> list[int]:
    """What its fake model drew."""
    return found.model.drawn  # type: ignore[attr-defined,no-any-return]


def contents(out: Path) -> dict[str, bytes]:
    """The pictures of a folder as they look, or all of a file; and everything else that lies there."""
    if out.is_file():
        return {"file": out.read_bytes()}
    shown = {}
    for path in out.iterdir():
        if path.suffix == ".png" and not path.name.startswith("."):
            with Image.open(path) as image:
                shown[path.name] = f"{image.mode} {image.size}".encode() + image.tobytes()
        elif path.name != ".lock":
            shown[path.name] = path.read_bytes()
    return shown


def finished_without_a_stop(out: Path, **options: Any) -> dict[str, bytes]:
    fake(out, **options).draw(batch_size=BATCH)
    return contents(out)


class Stop(BaseException):
    """What Ctrl-C is."""


def stopping(after: int) -> Callable[[int], None]:
    steps = iter(range(after))

    def step(pictures: int) -> None:
        if next(steps, None) is None:
            raise Stop

    return step


def stopped(found: Drawing, after: int) -> None:
    with pytest.raises(Stop):
        found.draw(batch_size=BATCH, on_step=stopping(after))


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return stored_model(tmp_path / "model")


# ---- what is written ------------------------------------------------------------------------------------------------


def test_a_folder_holds_the_models_own_pictures_by_seed_and_how_they_were_drawn(model: Model, tmp_path: Path):
    seeds, out = [5, 1, 12_345_678], tmp_path / "new" / "pictures"
    drawing(model, seeds, SAMPLING, out).draw()
    assert seeds_in(out) == set(seeds)
    shown = contents(out)
    assert shown.keys() == {"000001.png", "000005.png", "12345678.png", "sampling.json"}
    save_folder(model.draw(seeds, SAMPLING), tmp_path / "plain", names=seeds)
    assert contents(tmp_path / "plain").items() <= shown.items()
    assert protocol_of(out) == json.loads(json.dumps(model.protocol(SAMPLING)))


def test_an_array_holds_them_in_the_order_asked_for_with_repeats_and_numpy_reads_it(model: Model, tmp_path: Path):
    seeds, out = [5, 1, 3, 1, 5, 5], tmp_path / "new" / "a.npz"
    drawing(model, seeds, SAMPLING, out).draw(batch_size=2)
    with np.load(out, allow_pickle=False) as held:
        assert sorted(held.files) == ["arr_0", "protocol", "seeds"]
        assert held["seeds"].tolist() == seeds
        assert (held["arr_0"].dtype, held["arr_0"].shape) == (np.uint8, (6, 4, 4, 1))
        assert json.loads(str(held["protocol"])) == json.loads(json.dumps(model.protocol(SAMPLING)))
        expected = torch.cat([model.draw(part, SAMPLING) for part in ([5, 1], [3])])[[0, 1, 2, 1, 0, 0]]
        np.testing.assert_array_equal(held["arr_0"], expected.permute(0, 2, 3, 1).numpy())
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.npz"]


def test_classes_are_those_of_the_pictures(tmp_path: Path):
    model = stored_model(tmp_path / "model", ("a", "b", "c"), network={"classes": 3})
    for name, labels in ((None, model.labels([4, 2, 9]).tolist()), ("c", [2, 2, 2])):
        sampling = dataclasses.replace(SAMPLING, class_name=name)
        drawing(model, [4, 2, 9], sampling, tmp_path / "a.npz").draw()
        with np.load(tmp_path / "a.npz") as held:
            assert (held["arr_1"].dtype, held["arr_1"].tolist()) == (np.int64, labels)
            expected = model.draw([4, 2, 9], sampling).permute(0, 2, 3, 1)
            np.testing.assert_array_equal(held["arr_0"], expected.numpy())


@pytest.mark.parametrize("channels", MODES)
def test_the_array_and_the_folder_and_what_is_read_from_it_are_the_same_pictures(channels: int, tmp_path: Path):
    options: dict[str, Any] = {"geometry": Geometry(channels, 4, 6), "seeds": [3, 0, 8, 5, 1]}
    for out in OUT.values():
        fake(tmp_path / out, **options).draw(batch_size=BATCH)
    there = kept(tmp_path / "pictures")
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
    with pytest.raises(InputError, match="no seeds make no picture"):
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
    again.draw(batch_size=BATCH, on_step=told.append)
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


KILLED = """
import os, random, signal, sys, time, traceback
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_drawn import BATCH, OUT, fake, real

def child(work):
    if pid := os.fork():
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)

def die_at(event, found):
    seen = []
    def wrap(name):
        plain = getattr(os, name)
        def counted(*args, **options):
            seen.append(name)
            if len(seen) > event:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*args, **options)
        setattr(os, name, counted)
    for name in ("replace", "unlink", "mkdir", "rmdir"):
        wrap(name)
    found.draw(batch_size=BATCH)

def at_every_event(folder, out):
    event, code = 0, None
    while code != 0:
        found = fake(folder / str(event) / out)
        found.out.parent.mkdir(parents=True)
        code = os.waitstatus_to_exitcode(os.waitpid(child(lambda: die_at(event, found)), 0)[1])
        assert code in (0, -signal.SIGKILL), code
        event += 1

def at_random(folder, out, dice):
    found = real(folder / out)
    for target in (45, 20):
        pid = child(lambda: found.draw(batch_size=BATCH))
        while len(found.missing()) > target:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

for out in OUT.values():
    at_every_event(Path("events") / out, out)
    at_random(Path("random"), out, random.Random(3))
"""


def real(out: Path) -> Drawing:
    """Sixty pictures of a network, with its checkpoint beside them."""
    folder = out.parent / "model"
    model = load_model(folder, device="cpu") if folder.is_dir() else stored_model(folder)
    return drawing(model, range(60), SAMPLING, out)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What drawings left that were killed, before each of their changes to the disk, or at random."""
    if not hasattr(signal, "SIGKILL"):
        pytest.skip("no such signal here")
    folder = tmp_path_factory.mktemp("killed")
    script = KILLED.format(tests=str(Path(__file__).parent))
    subprocess.run([sys.executable, "-c", script], check=True, cwd=folder)
    return folder


def finished(contents: dict[str, bytes]) -> dict[str, bytes]:
    return {name: held for name, held in contents.items() if not name.startswith(".unfinished-")}


@BOTH
def test_killed_between_any_two_changes_of_the_disk_it_ends_in_the_same_pixels(out: str, killed: Path, tmp_path: Path):
    """The fake's pictures tell their batch: if it were cut otherwise after a kill, they would differ."""
    reference = finished_without_a_stop(tmp_path / "once" / out)
    left = set()
    for attempt in (killed / "events" / out).iterdir():
        again = fake(attempt / out)
        missing = again.missing()
        again.draw(batch_size=BATCH)
        left.add(len(missing))
        assert drawn_by(again) == missing, attempt.name
        assert finished(contents(attempt / out)) == reference, attempt.name
        assert finished({path.name: b"" for path in attempt.iterdir()}).keys() == {out}, attempt.name
    assert left == {7, 4, 1, 0}, "whole batches"


@BOTH
def test_killed_again_and_again_at_random_moments_it_ends_in_the_same_pixels(out: str, killed: Path):
    last, once = real(killed / "random" / out), real(killed / "random" / f"once-{out}")
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
    if out == "pictures":
        fewer = fake(tmp_path / out, [8, 20])
        fewer.draw()
        assert drawn_by(fewer) == []


@BOTH
def test_two_processes_do_not_draw_into_one_place(out: str, tmp_path: Path):
    found = fake(tmp_path / out)
    folder = tmp_path / ("a.npz.parts" if out == "a.npz" else out)
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(InputError, match="another process draws into"):
        found.draw()
    found.draw()


def test_a_million_seeds_are_looked_up_in_one_listing_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake(tmp_path / "pictures", range(0, 1000, 10)).draw()
    found, plain, looks = fake(tmp_path / "pictures", range(1_000_000)), os.stat, []
    monkeypatch.setattr(os, "stat", lambda *args, **options: looks.append(args) or plain(*args, **options))
    assert len(found.missing()) == 1_000_000 - 100
    assert len(looks) < 50


def test_memory_holds_one_batch_at_a_time(tmp_path: Path):
    """1,000 pictures of 12 kB, 20 at a time: a quarter of the whole leaves room for ten batches."""
    found = fake(tmp_path / "a.npz", range(1000), geometry=Geometry(3, 64, 64))
    tracemalloc.start()
    found.draw(batch_size=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1000 * 3 * 64 * 64 / 4
    with np.load(tmp_path / "a.npz") as held:
        assert held["arr_0"].shape == (1000, 64, 64, 3)


# ---- whose pictures they are ----------------------------------------------------------------------------------------


@BOTH
def test_pictures_drawn_another_way_are_left_alone_and_the_sentence_says_what_differs(out: str, tmp_path: Path):
    stopped(fake(tmp_path / out), after=3)
    other = fake(tmp_path / out, sampling=Sampling(steps=10))
    place = "a.npz.parts" if out == "a.npz" else out
    before = contents(tmp_path / place)
    for attempt in (other.missing, other.draw):
        with pytest.raises(
            InputError, match=f"{place}' holds pictures drawn another way: steps is 3 there and 10 here"
        ):
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
    ],
)
def test_every_choice_of_how_is_told_apart(changes: dict[str, Any], sentence: str, model: Model, tmp_path: Path):
    base = dataclasses.replace(SAMPLING, sampler="ancestral")
    drawing(model, [0], base, tmp_path / "pictures").draw()
    with pytest.raises(InputError, match=sentence):
        drawing(model, [1], dataclasses.replace(base, **changes), tmp_path / "pictures").missing()


def test_other_weights_are_told_apart(model: Model, tmp_path: Path):
    drawing(model, [0], SAMPLING, tmp_path / "pictures").draw()
    for other, key in ((stored_model(tmp_path / "other", seed=1), "weights_sha256"),
                       (dataclasses.replace(model, weights="raw"), "weights")):  # fmt: skip
        with pytest.raises(InputError, match=f"{key} is .{{1,16}} there and .{{1,16}} here; another folder would fit"):
            drawing(other, [1], SAMPLING, tmp_path / "pictures").missing()


def test_lists_that_differ_are_not_told_number_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake(tmp_path / "pictures").draw()
    protocol = Fake().protocol(SAMPLING) | {"levels": [0.25, 0.5]}
    monkeypatch.setattr(Fake, "protocol", lambda *_: protocol)
    with pytest.raises(InputError, match="another way: levels differ; another folder"):
        fake(tmp_path / "pictures").missing()


def test_an_emptied_folder_may_be_used_for_anything(tmp_path: Path):
    fake(tmp_path / "pictures").draw()
    for path in (tmp_path / "pictures").glob("*.png"):
        path.unlink()
    fake(tmp_path / "pictures", sampling=Sampling(steps=10)).draw(batch_size=BATCH)
    assert contents(tmp_path / "pictures") == finished_without_a_stop(tmp_path / "b", sampling=Sampling(steps=10))


@pytest.mark.parametrize("name", ["000003.png", "000900.png"])
def test_pictures_of_unknown_origin_are_neither_replaced_nor_taken_for_ours(name: str, tmp_path: Path):
    """Not even those that nobody asked for: a later drawing with more seeds would take them for done."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / name).write_text("somebody's")
    for attempt in (fake(tmp_path / "pictures").missing, fake(tmp_path / "pictures").draw):
        with pytest.raises(InputError, match=r"holds pictures and no sampling\.json .* another folder would fit"):
            attempt()
    assert {path.name: path.read_text() for path in (tmp_path / "pictures").iterdir() if path.name != ".lock"} == {
        name: "somebody's"
    }


def test_files_with_other_names_stay_where_they_are(tmp_path: Path):
    names = ["3.png", "0000003.png", "000003.jpg", "000003.PNG", "cat.png", "neighbours.png", ".unfinished-000003.png"]
    (tmp_path / "pictures").mkdir()
    for name in names:
        (tmp_path / "pictures" / name).write_text("somebody's")
    fake(tmp_path / "pictures").draw()
    assert kept(tmp_path / "pictures").seeds == tuple(SEEDS)
    assert all((tmp_path / "pictures" / name).read_text() == "somebody's" for name in names[:-1])


def test_a_finished_array_of_these_pictures_stays_and_any_other_file_is_replaced(tmp_path: Path):
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


def test_batches_for_an_array_are_never_thrown_away_unused(tmp_path: Path):
    """Stopped with nine seeds; asking for fewer would lose some that were drawn."""
    stopped(fake(tmp_path / "a.npz", range(9)), after=5)
    with pytest.raises(InputError, match=r"a\.npz\.parts' holds pictures of other seeds, .* remove it, or name"):
        fake(tmp_path / "a.npz", range(4)).draw()
    assert fake(tmp_path / "a.npz", range(9)).missing() == [6, 7, 8]


def test_a_finished_array_leaves_alone_the_batches_of_a_larger_one_that_was_stopped(tmp_path: Path):
    fake(tmp_path / "a.npz", range(4)).draw()
    stopped(fake(tmp_path / "a.npz", range(9)), after=5)
    fake(tmp_path / "a.npz", range(4)).draw()
    assert fake(tmp_path / "a.npz", range(9)).missing() == [6, 7, 8]


# ---- damage, and places that do not fit -----------------------------------------------------------------------------


def test_a_flipped_bit_or_a_cut_in_what_says_how_is_damage(tmp_path: Path):
    fake(tmp_path / "pictures").draw()
    file = tmp_path / "pictures" / "sampling.json"
    content = file.read_bytes()
    spoilt = [content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :] for place in range(len(content) - 1)]
    for other in [*spoilt, b"", content[:-20], b"[]", b"\xff"]:
        file.write_bytes(other)
        with pytest.raises(DdpmError) as raised:
            fake(tmp_path / "pictures").missing()
        newer = "newer ddpm" in str(raised.value)
        assert isinstance(raised.value, InputError if newer else DamagedFile), str(raised.value)
        assert "sampling.json" in str(raised.value)


def test_a_newer_format_is_refused_as_such(tmp_path: Path):
    fake(tmp_path / "pictures").draw()
    table = signed({"format": "ddpm pictures", "format_version": 99, "protocol": {}})
    (tmp_path / "pictures" / "sampling.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match="a newer ddpm would fit"):
        fake(tmp_path / "pictures").missing()


@BOTH
def test_a_batch_that_is_damaged_is_refused_by_name_and_without_it_the_drawing_goes_on(out: str, tmp_path: Path):
    """Every byte of a batch in turn; bits that say nothing (times, flags) may pass, if the pictures are the same."""
    expected = finished_without_a_stop(tmp_path / "once" / out)
    place = tmp_path / ("a.npz.parts" if out == "a.npz" else out)
    stopped(fake(tmp_path / out), after=3)
    if out == "pictures":  # as if it had been killed before the first PNG
        drawn._write(place / ".batch.npz", [0, 1, 2], next(kept(place).batches([0, 1, 2])))
        for seed in (0, 1, 2):
            (place / f"{seed:06d}.png").unlink()
    (file,) = (path for path in place.iterdir() if path.suffix == ".npz")
    content, (_, expected_pictures) = file.read_bytes(), drawn._read(file, "seeds", "pictures")
    for spot in range(0, len(content), 3):
        file.write_bytes(content[:spot] + bytes([content[spot] ^ (1 << spot % 8)]) + content[spot + 1 :])
        with contextlib.suppress(DamagedFile):
            seeds, pictures = drawn._read(file, "seeds", "pictures")
            assert seeds.tolist() == [0, 1, 2]
            np.testing.assert_array_equal(pictures, expected_pictures)
    file.write_bytes(content[:-1])
    with pytest.raises(DamagedFile, match=f"{file.name}' is cut short or damaged; without it the same command goes on"):
        fake(tmp_path / out).draw(batch_size=BATCH)
    file.unlink()
    fake(tmp_path / out).draw(batch_size=BATCH)
    assert contents(tmp_path / out) == expected


@pytest.mark.parametrize("content", [b"", b"old", "half", "other size"])
def test_reading_a_picture_that_is_damaged_names_it(content: bytes | str, tmp_path: Path):
    fake(tmp_path / "pictures", geometry=Geometry(1, 30, 30)).draw()
    file = tmp_path / "pictures" / "000003.png"
    if content == "other size":
        Image.new("L", (2, 2)).save(file)
    else:
        file.write_bytes(content if isinstance(content, bytes) else file.read_bytes()[:400])
    with pytest.raises(DamagedFile, match=r"000003\.png' is missing, damaged or not of ours"):
        list(kept(tmp_path / "pictures").batches())
    with pytest.raises(DamagedFile, match=r"000099\.png' is missing"):
        next(kept(tmp_path / "pictures").batches([99]))


def test_only_folders_that_were_drawn_are_read(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert protocol_of(folder) is None
        with pytest.raises(InputError, match=r"holds no sampling\.json"):
            kept(folder)


def test_places_that_cannot_be_written_are_refused_before_anything_is_drawn(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npz").mkdir()
    for out in ("file", "file/below", "folder.npz", "file/a.npz"):
        found = fake(tmp_path / out)
        for attempt in (found.missing, found.draw):
            with pytest.raises(InputError, match=r"would fit|cannot be written"):
                attempt()
        assert drawn_by(found) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.npz"]


def test_a_full_disk_loses_nothing_that_was_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain, saved = Image.Image.save, []

    def save(image: Image.Image, target: Path) -> None:
        if len(saved) == 4:
            raise OSError(28, "No space left on device")
        saved.append(target)
        plain(image, target)

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(InputError, match="No space left on device"):
        fake(tmp_path / "pictures").draw(batch_size=BATCH)
    monkeypatch.undo()
    again = fake(tmp_path / "pictures")
    again.draw(batch_size=BATCH)
    assert drawn_by(again) == [6]
    assert contents(tmp_path / "pictures") == finished_without_a_stop(tmp_path / "once")


def test_the_kind_of_place_follows_the_name(tmp_path: Path):
    assert isinstance(fake(tmp_path / "a.npz"), ArrayDrawing)
    assert isinstance(fake(tmp_path / "v1.5"), FolderDrawing)


def test_arrays_are_stored_so_that_other_tools_can_read_them_as_a_stream(tmp_path: Path):
    fake(tmp_path / "a.npz").draw()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.namelist() == ["arr_0.npy", "seeds.npy", "protocol.npy"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_random_orders_and_repeats_come_out_as_asked_for(tmp_path: Path):
    """Three drawings of any seeds: the array is the folder's pictures, looked up one by one."""
    dice = random.Random(1)
    for round_ in range(3):
        seeds = [dice.randrange(40) for _ in range(60)]
        for out in ("pictures", "a.npz"):
            fake(tmp_path / str(round_) / out, seeds).draw(batch_size=7)
        (shown,) = kept(tmp_path / str(round_) / "pictures").batches(seeds)
        with np.load(tmp_path / str(round_) / "a.npz") as held:
            np.testing.assert_array_equal(held["arr_0"], shown.permute(0, 2, 3, 1).numpy())
