"""Nothing is called done that is not what it says: parts, folders and arrays are checked, and damage is drawn again."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import tempfile
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
from PIL import Image

from ddpm.base.noise import stream_keys, uniforms
from ddpm.base.progress import Advance
from ddpm.base.tables import signed
from ddpm.errors import DamagedFile, DdpmError, InputError
from ddpm.generation import resumable
from ddpm.generation.draw import labels_for
from ddpm.generation.image_folder import HASHES_FILE, PROTOCOL_FILE, hashes_in, open_image_folder, seeds_in
from ddpm.generation.protocol_fields import ProtocolFields
from ddpm.model.model import Model
from scorings import stored_model


def flipped(file: Path, spot: int) -> None:
    content = bytearray(file.read_bytes())
    content[spot % len(content)] ^= 4
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "a bit of its pixels": lambda file: flipped(file, -25),
    "a bit of its end": lambda file: flipped(file, -1),
    "of another seed": lambda file: shutil.copy(file.with_name("000000.png"), file),
    "of another size": lambda file: Image.new("L", (9, 9)).save(file),
    "of another kind": lambda file: Image.new("RGB", (3, 2)).save(file, "GIF"),
    "text": lambda file: file.write_text("old"),
}
DAMAGES = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)


def sentence_of(act: Callable[[], object]) -> str:
    """The named error that it ends with, "" if with none."""
    try:
        act()
    except DdpmError as error:
        return str(error)
    return ""


def at_step(number: int, act: Callable[[], object]) -> Advance:
    """Two steps a batch."""
    steps = iter(range(1, number))

    def advance(more: int, note: str = "") -> None:
        nonlocal act
        if next(steps, None) is None:
            act()
            act = lambda: None  # noqa: E731

    return advance


def pixels(out: Path) -> np.ndarray:
    """Of all seeds, without the one that tells the batch: (N, H W C - 1)."""
    if out.suffix:
        with np.load(out) as held:
            return held["arr_0"].reshape(len(held["arr_0"]), -1)[:, 1:]  # type: ignore[no-any-return]
    images = np.concatenate([batch.numpy() for batch in open_image_folder(out).batches()])
    return images.transpose(0, 2, 3, 1).reshape(len(images), -1)[:, 1:]


# ---- while it draws -------------------------------------------------------------------------------------------------


BATCH_DAMAGE: dict[str, Callable[[Path], object]] = {
    **{name: DAMAGE[name] for name in ("gone", "empty", "cut", "text")},
    "a bit of its pixels": lambda file: flipped(file, after_header(file)),
    "of other seeds": lambda file: shutil.copy(file.with_name("000000.npz"), file),
    "of another size": lambda file: arrays(file, images=np.zeros((3, 1, 9, 9), np.uint8)),
}


def after_header(file: Path) -> int:
    """A place among the values of the last array in an .npz."""
    content = file.read_bytes()
    return content.index(b"\n", content.rindex(b"}")) + 5


@pytest.mark.parametrize(
    ("out", "damage"),
    [
        *(pytest.param("images", damage, id=f"folder-{name}") for name, damage in DAMAGE.items()),
        *(pytest.param("a.npz", damage, id=f"array-{name}") for name, damage in BATCH_DAMAGE.items()),
    ],
)
def test_what_is_damaged_while_others_are_drawn_is_named_and_the_same_command_draws_it(
    damage: Callable[[Path], object], out: str, tmp_path: Path
):
    """The image of seed 3, or the batch that it begins, in the third of three batches."""
    name, lost = ("000003.png", [3]) if out == "images" else ("000003.npz", [3, 4, 5])
    found, file = fake(tmp_path / out), tmp_path / place_of(out) / name
    with pytest.raises(DamagedFile, match=rf"{len(lost)} of 7 images .* of seed 3 for one: the same command draws"):
        found.draw(batch_size=BATCH, advance=at_step(5, lambda: damage(file)))
    again = fake(tmp_path / out)
    assert again.missing() == lost
    again.draw(batch_size=BATCH)
    assert drawn_by(again) == lost
    fake(tmp_path / "once" / out).draw(batch_size=BATCH)
    np.testing.assert_array_equal(pixels(tmp_path / out), pixels(tmp_path / "once" / out))
    assert not (tmp_path / "a.npz.parts").exists()


@BOTH
@pytest.mark.parametrize("step", range(1, 7))
def test_a_folder_removed_while_it_is_drawn_is_no_success_and_the_same_command_goes_on(
    step: int, out: str, tmp_path: Path
):
    """In the first batch nothing is lost: the folder is made again."""
    folder = tmp_path / place_of(out)
    advance = at_step(step, lambda: shutil.rmtree(folder))
    if step <= 2:
        fake(tmp_path / out).draw(batch_size=BATCH, advance=advance)
    else:
        with pytest.raises(DamagedFile, match=r"[36] of 7 images .* of seed 0 for one"):
            fake(tmp_path / out).draw(batch_size=BATCH, advance=advance)
        fake(tmp_path / out).draw(batch_size=BATCH)
    assert contents(tmp_path / out) == finished_without_a_stop(tmp_path / "once" / out)


@pytest.mark.parametrize(
    ("out", "name"), [("images", PROTOCOL_FILE), ("images", HASHES_FILE), ("a.npz", PROTOCOL_FILE)]
)
def test_what_says_how_is_written_again_where_it_was_removed(name: str, out: str, tmp_path: Path):
    file = tmp_path / place_of(out) / name
    fake(tmp_path / out).draw(batch_size=BATCH, advance=at_step(5, file.unlink))
    assert contents(tmp_path / out) == finished_without_a_stop(tmp_path / "once" / out)


@BOTH
def test_a_folder_that_another_drawing_took_meanwhile_is_left_to_it(out: str, tmp_path: Path):
    fake(tmp_path / "other").draw()
    (tmp_path / "other" / PROTOCOL_FILE).write_text(
        json.dumps(signed(claim(tmp_path / "other") | {"protocol": fake(tmp_path).protocol | {"eta": 0.5}}))
    )
    before, folder = contents(tmp_path / "other"), tmp_path / place_of(out)

    def swap() -> None:
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "other", folder)

    with pytest.raises(InputError, match=r"eta is 0\.5 there and None here"):
        fake(tmp_path / out).draw(batch_size=BATCH, advance=at_step(3, swap))
    assert before.items() <= contents(folder).items()


def claim(folder: Path) -> dict[str, Any]:
    """What a folder says, unsigned."""
    table = json.loads((folder / PROTOCOL_FILE).read_text())
    return {key: value for key, value in table.items() if key != "own_sha256"}


def test_an_array_that_reads_back_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = resumable.write_array

    def failing(path: Path, *args: Any) -> None:
        plain(path, *args)
        flipped(path, path.read_bytes().index(b"}") + 60)  # of arr_0, behind its header

    monkeypatch.setattr(resumable, "write_array", failing)
    with pytest.raises(DamagedFile, match=r"a\.npz' .*reads back otherwise.* kept in .*a\.npz\.parts"):
        fake(tmp_path / "a.npz").draw(batch_size=BATCH)
    assert not (tmp_path / "a.npz").exists()
    monkeypatch.setattr(resumable, "write_array", plain)
    again = fake(tmp_path / "a.npz")
    again.draw(batch_size=BATCH)
    assert drawn_by(again) == []
    assert contents(tmp_path / "a.npz") == finished_without_a_stop(tmp_path / "once.npz")


# ---- when the command is repeated -----------------------------------------------------------------------------------


@DAMAGES
def test_a_damaged_image_in_a_finished_folder_is_found_and_drawn_again(
    damage: Callable[[Path], object], tmp_path: Path
):
    fake(tmp_path / "images").draw(batch_size=BATCH)
    before = pixels(tmp_path / "images")
    damage(tmp_path / "images" / "000004.png")
    again = fake(tmp_path / "images")
    assert again.missing() == [4]
    again.draw()
    assert drawn_by(again) == [4]
    np.testing.assert_array_equal(pixels(tmp_path / "images"), before)


@DAMAGES
def test_a_damaged_image_is_named_where_images_are_read(damage: Callable[[Path], object], tmp_path: Path):
    fake(tmp_path / "images").draw()
    damage(tmp_path / "images" / "000004.png")
    with pytest.raises(DamagedFile, match=r"000004\.png' is missing or damaged"):
        list(open_image_folder(tmp_path / "images").batches(SEEDS))


def test_a_damaged_line_of_hashes_draws_its_image_again_and_no_other(tmp_path: Path):
    fake(tmp_path / "images").draw()
    file = tmp_path / "images" / HASHES_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    for bad in (b"", b"\n", lines[3][:30] + b"\n", lines[3].replace(b"sha", b"\xff"), b"[" * 100_000 + b"\n"):
        file.write_bytes(b"".join([*lines[:3], bad, *lines[4:]]))
        assert fake(tmp_path / "images").missing() == [3]
    file.write_bytes(b"".join(lines)[:-30])  # half a line, as a kill leaves it
    again = fake(tmp_path / "images", [*SEEDS, 9])
    assert again.missing() == [6, 9]
    again.draw(batch_size=BATCH)
    assert hashes_in(tmp_path / "images") == {
        seed: hashlib.sha256((tmp_path / "images" / f"{seed:06}.png").read_bytes()).hexdigest() for seed in [*SEEDS, 9]
    }


def arrays(file: Path, **changed: Any) -> None:
    """Write an .npz again with some arrays changed; None leaves one out."""
    with np.load(file) as held:
        kept = {name: held[name] for name in held.files} | changed
    np.savez(file, **{name: array for name, array in kept.items() if array is not None})


CHANGED: dict[str, dict[str, Any]] = {
    "other pixels' shape": {"arr_0": np.zeros((6, 2, 3, 1), np.uint8)},
    "other pixels' type": {"arr_0": np.zeros((7, 2, 3, 1), np.float32)},
    "other order": {"arr_0": np.asfortranarray(np.zeros((7, 2, 3, 1), np.uint8))},
    "no pixels": {"arr_0": None},
    "seeds of another type": {"seeds": np.arange(7.0)},
    "seeds of another shape": {"seeds": np.arange(8).reshape(2, 4)},
}


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED)
def test_a_finished_array_with_other_content_is_damaged_and_without_it_drawn_again(
    changed: dict[str, Any], tmp_path: Path
):
    out = tmp_path / "a.npz"
    expected = finished_without_a_stop(out)
    arrays(out, **changed)
    for attempt in (fake(out).missing, fake(out).draw):
        with pytest.raises(DamagedFile, match=r"a\.npz' is damaged .*remove it"):
            attempt()
    out.unlink()
    fake(out).draw(batch_size=BATCH)
    assert contents(out) == expected


def test_a_finished_array_with_a_flipped_bit_is_never_taken_for_whole(tmp_path: Path):
    """Every fifth byte: it is damaged by name, or no array of these images, or a bit that says nothing."""
    out = tmp_path / "a.npz"
    fake(out).draw(batch_size=BATCH)
    content, seen = out.read_bytes(), {"whole": 0, "damaged": 0, "other": 0, "missing": 7}
    with np.load(out) as held:
        whole = {name: held[name] for name in held.files}
    for spot in range(0, len(content), 5):
        out.write_bytes(content[:spot] + bytes([content[spot] ^ (1 << spot % 8)]) + content[spot + 1 :])
        error = sentence_of(lambda: seen.update(missing=len(fake(out).missing())))
        assert not error or "a.npz" in error
        kind = "damaged" if error else "other" if seen["missing"] else "whole"
        seen[kind] += 1
        if kind == "whole":
            with np.load(out) as held:
                assert all(np.array_equal(held[name], array) for name, array in whole.items()), spot
    assert min(seen["whole"], seen["other"]) > 0, seen
    assert seen["damaged"] > 3 * seen["other"]


def test_a_cut_array_is_drawn_again(tmp_path: Path):
    out = tmp_path / "a.npz"
    expected = finished_without_a_stop(out)
    for size in (0, 10, len(out.read_bytes()) - 1):
        out.write_bytes(out.read_bytes()[:size])
        fake(out).draw(batch_size=BATCH)
        assert contents(out) == expected


# ---- what says how, with a hash that is right -----------------------------------------------------------------------

WRONG = {
    "weights": [None, 3],
    "weights_sha256": [None],
    "sampler": [None, ["ddim"]],
    "steps": [0, -5, 3.0, "3", True, None],
    "calls": [0, 2.5, None, 10**400],
    "spacing": [None, 1],
    "levels": [None, "some", 3, ["a"], [None], [float("nan")], [True], {}],
    "eta": ["0", float("inf"), float("nan"), 10**400, True],
    "variance": [1, []],
    "measured_sha256": [1],
    "threshold": [None, 1.0],
    "guidance": [None, float("nan"), "1", True],
    "class": ["cat", -1, 0.0, True],
    "precision": [None, 32],
    "noise": [None, 0, 1.0, True],
}


def test_every_field_has_wrong_values_here():
    fields = {field.alias or name for name, field in ProtocolFields.model_fields.items()}
    assert WRONG.keys() == fields == fake(Path("x")).protocol.keys()


@pytest.mark.parametrize("field", WRONG)
def test_a_field_of_another_kind_is_damage_although_the_hash_is_right(field: str, tmp_path: Path):
    right = fake(tmp_path / "images").protocol
    for out in ("images", "a.npz"):
        fake(tmp_path / out).draw()
    wrong = [right | {field: value} for value in WRONG[field]]
    if field not in ("precision", "noise"):  # older versions lack them
        wrong.append({name: value for name, value in right.items() if name != field})
    for protocol in wrong:
        table = {**claim(tmp_path / "images"), "protocol": protocol}
        (tmp_path / "images" / PROTOCOL_FILE).write_text(json.dumps(signed(table)))
        with pytest.raises(DamagedFile, match=rf"sampling\.json' is damaged: key 'protocol\.{field}\b"):
            fake(tmp_path / "images").missing()
        arrays(tmp_path / "a.npz", protocol=np.array(json.dumps(protocol)))
        if "weights_sha256" in protocol:  # else it is somebody's own
            with pytest.raises(DamagedFile, match=rf"a\.npz' is damaged: key '{field}\b"):
                fake(tmp_path / "a.npz").missing()


@pytest.mark.parametrize("changed", [{"protocol": None}, {"protocol": []}, {"class_names": "a"}, {"class_names": [1]}])
def test_a_table_of_another_kind_is_damage_although_its_hash_is_right(changed: dict[str, Any], tmp_path: Path):
    fake(tmp_path / "images").draw()
    table = signed({**claim(tmp_path / "images"), **changed})
    (tmp_path / "images" / PROTOCOL_FILE).write_text(json.dumps(table))
    with pytest.raises(DamagedFile, match=r"sampling\.json' is damaged: key '"):
        fake(tmp_path / "images").missing()


@pytest.mark.parametrize(
    "changed",
    [
        {"seeds": np.array([0.0, 1, 2])},
        {"seeds": np.array(3)},
        {"seeds": np.array([0, 1])},
        {"images": np.zeros((3, *SMALL.shape), np.int8)},
        {"images": np.zeros((3, 1, 9, 9), np.uint8)},
        {"images": None},
    ],
)
def test_a_batch_of_another_kind_is_damage(changed: dict[str, Any], tmp_path: Path):
    stopped_at_image(fake(tmp_path / "images"), 1)
    arrays(tmp_path / "images" / ".batch.npz", **changed)
    with pytest.raises(DamagedFile, match=r"\.batch\.npz' .*remove it, and the same command goes on"):
        fake(tmp_path / "images").draw()


# ---- older versions, and what belongs to others ---------------------------------------------------------------------


def as_older_versions_left_it(folder: Path) -> None:
    (folder / HASHES_FILE).unlink()


@pytest.mark.parametrize(
    "damage", [lambda file: None, *(DAMAGE[name] for name in ("gone", "empty", "of another size"))]
)
def test_images_that_an_older_version_drew_are_read_gone_on_with_and_hashed(
    damage: Callable[[Path], object], tmp_path: Path
):
    folder = tmp_path / "images"
    stopped(fake(folder), after=5)
    as_older_versions_left_it(folder)
    damage(folder / "000002.png")
    lost = [2] if damage in DAMAGE.values() else []
    if not lost:
        assert [len(batch) for batch in open_image_folder(folder).batches(batch_size=4)] == [4, 2]
    again = fake(folder)
    assert again.missing() == [*lost, 6]
    again.draw(batch_size=1)
    assert drawn_by(again) == [*lost, 6]
    fake(tmp_path / "once").draw(batch_size=BATCH)
    np.testing.assert_array_equal(pixels(folder), pixels(tmp_path / "once"))
    assert (hashes_in(folder) or {}).keys() == set(SEEDS)


def test_files_of_others_among_the_parts_stay(tmp_path: Path):
    parts = tmp_path / "a.npz.parts"
    parts.mkdir()
    (parts / "notes.txt").write_text("mine")
    fake(tmp_path / "a.npz").draw(batch_size=BATCH)
    assert [path.name for path in parts.iterdir()] == ["notes.txt"]


@BOTH
def test_unfinished_files_of_a_killed_drawing_are_removed_and_no_others(out: str, tmp_path: Path):
    stopped(fake(tmp_path / out), after=3)
    folder = tmp_path / place_of(out)
    for name in (".unfinished-0a1b2c3d.png", ".unfinished-0a1b2c3d.jsonl", ".unfinished-mine.png", "unfinished.png"):
        (folder / name).write_text("half")
    fake(tmp_path / out).draw(batch_size=BATCH)
    left = {path.name for path in folder.iterdir() if path.read_bytes() == b"half"}
    assert left == {".unfinished-mine.png", "unfinished.png"}


# ---- classes --------------------------------------------------------------------------------------------------------

NAMES = ("a", "b, and", "\n\udcffc")


@pytest.fixture
def classed(tmp_path: Path) -> Model:
    return stored_model(tmp_path / "classed", NAMES, network={"classes": 3})


@pytest.mark.parametrize("name", [None, "a"])
def test_folders_and_arrays_say_what_their_classes_are_called(name: str | None, classed: Model, tmp_path: Path):
    sampling = dataclasses.replace(SAMPLING, class_name=name)
    for out in OUT.values():
        drawing(classed, [4, 2, 9], sampling, tmp_path / out).draw(batch_size=2)
    labels = labels_for(classed, [4, 2, 9], name)
    assert labels is not None
    with np.load(tmp_path / "a.npz") as held:
        assert held.files == ["arr_0", "arr_1", "class_names", "seeds", "protocol"]
        assert held["arr_1"].tolist() == labels.tolist()
        assert held["class_names"].tolist() == list(NAMES)
    assert claim(tmp_path / "images")["class_names"] == list(NAMES)
    lines = [json.loads(line) for line in (tmp_path / "images" / HASHES_FILE).read_text().splitlines()]
    found = {line["file"]: line["class"] for line in lines}
    assert found == {f"{seed:06}.png": NAMES[k] for seed, k in zip([4, 2, 9], labels.tolist(), strict=True)}


def test_what_an_older_version_wrote_without_names_of_classes_is_gone_on_with(classed: Model, tmp_path: Path):
    for out in OUT.values():
        drawing(classed, [4, 2], SAMPLING, tmp_path / out).draw()
    arrays(tmp_path / "a.npz", class_names=None)
    before = contents(tmp_path / "a.npz")
    table = claim(tmp_path / "images")
    del table["class_names"]
    (tmp_path / "images" / PROTOCOL_FILE).write_text(json.dumps(signed(table)))
    as_older_versions_left_it(tmp_path / "images")
    for out in OUT.values():
        assert drawing(classed, [4, 2], SAMPLING, tmp_path / out).missing() == []
        drawing(classed, [4, 2], SAMPLING, tmp_path / out).draw()
    assert contents(tmp_path / "a.npz") == before
    assert drawing(classed, [4, 2, 9], SAMPLING, tmp_path / "images").missing() == [9]
    drawing(classed, [4, 2, 9], SAMPLING, tmp_path / "images").draw()
    assert claim(tmp_path / "images")["class_names"] == list(NAMES)


def test_classes_drawn_from_seeds_are_those_of_uniform_numbers_and_stay_what_they_are(classed: Model):
    drawn = labels_for(classed, range(12))
    assert drawn is not None
    assert drawn.tolist() == [1, 0, 2, 1, 0, 0, 2, 0, 2, 1, 2, 1]
    chances = uniforms(stream_keys("class", 0, torch.arange(12)))
    assert drawn.tolist() == (chances * 3).long().tolist()


def test_classes_that_are_not_those_of_the_seeds_are_damage(classed: Model, tmp_path: Path):
    drawing(classed, [4, 2], SAMPLING, tmp_path / "a.npz").draw()
    for changed in ({"arr_1": np.array([5, 5])}, {"arr_1": np.array([1.0, 2])}, {"arr_1": None},
                    {"class_names": np.array(["x", "y", "z"])}, {"class_names": np.array(3)}):  # fmt: skip
        shutil.copy(tmp_path / "a.npz", tmp_path / "b.npz")
        arrays(tmp_path / "b.npz", **changed)
        with pytest.raises(DamagedFile, match=r"b\.npz' is damaged"):
            drawing(classed, [4, 2], SAMPLING, tmp_path / "b.npz").missing()


# ---- links, pipes, room, names --------------------------------------------------------------------------------------


def test_parts_that_are_a_link_are_refused_before_anything_is_drawn(tmp_path: Path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "a.npz.parts").symlink_to(tmp_path / "outside")
    found = fake(tmp_path / "a.npz")
    for attempt in (found.missing, found.draw):
        with pytest.raises(InputError, match=r"a\.npz\.parts' is a link"):
            attempt()
    assert drawn_by(found) == []
    assert list((tmp_path / "outside").iterdir()) == []
    (tmp_path / "a.npz.parts").unlink()
    found.draw()


@BOTH
@pytest.mark.parametrize("name", ["000001.png", "000000.npz", "000003.npz", ".batch.npz", ".packed.npz", PROTOCOL_FILE,
                                  HASHES_FILE, ".lock", ".unfinished-000001.png"])  # fmt: skip
def test_a_link_laid_in_the_place_of_a_file_leads_nothing_outside(name: str, out: str, tmp_path: Path):
    """It ends in the images, or in a sentence."""
    folder, outside = tmp_path / place_of(out), tmp_path / "outside"
    outside.write_text("mine")
    stopped(fake(tmp_path / out), after=3)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    error = sentence_of(lambda: fake(tmp_path / out).draw(batch_size=BATCH))
    assert not error or name in error
    if not error:
        fake(tmp_path / "once" / out).draw(batch_size=BATCH)
        np.testing.assert_array_equal(pixels(tmp_path / out), pixels(tmp_path / "once" / out))
    assert outside.read_text() == "mine"


def test_a_folder_of_images_may_be_a_link(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "images").symlink_to(tmp_path / "disk")
    fake(tmp_path / "images").draw(batch_size=BATCH)
    assert seeds_in(tmp_path / "disk") == set(SEEDS)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
@BOTH
@pytest.mark.parametrize("name", ["000001.png", "000000.npz", ".batch.npz", PROTOCOL_FILE, HASHES_FILE])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(name: str, out: str, tmp_path: Path):
    stopped(fake(tmp_path / out), after=3)
    file = tmp_path / place_of(out) / name
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    error = sentence_of(lambda: fake(tmp_path / out).draw(batch_size=BATCH))
    assert name in error if error else fake(tmp_path / out).missing() == []


@BOTH
def test_a_disk_without_room_is_refused_before_anything_is_drawn(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Seven images of 6 bytes: a fourth of that as PNGs, and twice all of it in an array and its batches."""
    needed = 2 * 7 * 6 if out == "a.npz" else 7 * 6 // 4
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    found = fake(tmp_path / out)
    for attempt in (found.missing, found.draw):
        with pytest.raises(InputError, match=rf"{out}' takes about {needed} bytes, and {needed - 1} are free"):
            attempt()
    assert drawn_by(found) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    found.draw(batch_size=BATCH)


@pytest.mark.parametrize("answer", ["nothing", "an error"])
def test_a_disk_that_does_not_say_how_much_room_it_has_is_believed(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def unknown(path: Path) -> Any:
        if answer == "an error":
            raise OSError(errno.ENOSYS, "Function not implemented")
        return usage._replace(total=0, used=0, free=0)

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", unknown)
    fake(tmp_path / "images").draw()


@pytest.mark.parametrize("out", ["x" * 256, "x" * 253 + ".npz", "x" * 250 + ".npz", "new/" + "x" * 256])
def test_names_that_are_too_long_are_refused_before_anything_is_drawn(out: str, tmp_path: Path):
    """Of an array also the name of its parts."""
    found = fake(tmp_path / out)
    for attempt in (found.missing, found.draw):
        with pytest.raises(InputError, match="choose a shorter name"):
            attempt()
    assert drawn_by(found) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["x" * 255, "x" * 245 + ".npz"])
def test_the_longest_names_are_drawn_into(out: str, tmp_path: Path):
    fake(tmp_path / out).draw()
    assert [path.name for path in tmp_path.iterdir()] == [out]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
@BOTH
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_drawn(
    out: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    found = fake(tmp_path / out)
    for attempt in (found.missing, found.draw):
        with pytest.raises(InputError, match=os.strerror(number)):
            attempt()
    assert drawn_by(found) == []
    assert Fake().drawn == []
