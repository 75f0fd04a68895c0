"""Placed levels lie beside their checkpoint, by sampler and number of steps; side files are sure of what they are."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm.base.files import signed
from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.model.sidecar import read_side_file, write_side_file
from ddpm.model.timesteps import FORMAT_VERSION, Placed, add_placed, levels_file, read_placed, tuned_levels
from ddpm.samplers import Sampling, Tuned
from scorings import stored_model

SHA = "a" * 64
AVERAGED = "levels-averaged.json"


def placed(*levels: float, eta: float | None = None, reach: float | None = None, **changes: Any) -> Placed:
    """With numbers that need all their digits, and words that are not ASCII."""
    settings: dict[str, Any] = {
        "criterion": "Fréchet distance of 64 pictures to 1500 images of Ångström, features pixels (pixels)",
        "value": 1 / 3,
        "before": 1e300,
        "best_named": "karras",
        "pictures": 64,
        "calls": 1280,
        "seed": -3,
        "data": "Ångström:train",
        "trials": 20,
    }
    return Placed(levels, eta, reach, **settings | changes)


FOUR, OTHER_FOUR = placed(1.5, 0.1 + 4, 700.123, 999.0, eta=0.5, reach=1.25), placed(1.0, 2.0, 3.0, 4.0)


def add(folder: Path, sampler: str, *found: Placed, weights: str = "averaged", sha: str = SHA) -> None:
    for each in found:
        assert add_placed(folder, weights, sha, sampler, each) == levels_file(folder, weights)


def files(folder: Path) -> list[str]:
    """What lies there, but for hidden locks."""
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))


def edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a side file's table and sign it again."""
    file = levels_file(folder, "averaged")
    table = json.loads(file.read_text(encoding="utf-8"))
    del table["own_sha256"]
    change(table)
    file.write_text(json.dumps(signed(table)), encoding="utf-8")


# ---- what is stored -------------------------------------------------------------------------------------------------


def test_what_is_added_is_read_back_to_the_last_digit(tmp_path: Path):
    add(tmp_path, "dpm++sde", FOUR)
    assert files(tmp_path) == [AVERAGED]
    assert read_placed(tmp_path, "averaged", SHA) == {"dpm++sde": {4: FOUR}}
    assert tuned_levels(tmp_path, "averaged", SHA, "dpm++sde", 4) == Tuned(FOUR.levels, 0.5, 1.25)


def test_samplers_and_numbers_of_steps_lie_side_by_side_and_the_same_again_is_replaced(tmp_path: Path):
    two, ten = placed(10.5, 900.5), placed(*map(float, range(1, 11)), eta=0.0)
    add(tmp_path, "dpm++sde", ten, OTHER_FOUR, two)
    add(tmp_path, "heun", OTHER_FOUR)
    add(tmp_path, "dpm++sde", FOUR)
    assert read_placed(tmp_path, "averaged", SHA) == {"dpm++sde": {2: two, 4: FOUR, 10: ten}, "heun": {4: OTHER_FOUR}}
    assert tuned_levels(tmp_path, "averaged", SHA, "heun", 4) == OTHER_FOUR.tuned
    assert tuned_levels(tmp_path, "averaged", SHA, "heun", 2) is None
    assert tuned_levels(tmp_path, "averaged", SHA, "unipc", 4) is None


def test_averaged_and_raw_weights_have_files_of_their_own(tmp_path: Path):
    add(tmp_path, "dpm++sde", FOUR)
    add(tmp_path, "dpm++sde", OTHER_FOUR, weights="raw")
    assert files(tmp_path) == [AVERAGED, "levels-raw.json"]
    assert read_placed(tmp_path, "averaged", SHA) == {"dpm++sde": {4: FOUR}}
    assert read_placed(tmp_path, "raw", SHA) == {"dpm++sde": {4: OTHER_FOUR}}


def test_where_nothing_was_placed_there_is_nothing(tmp_path: Path):
    assert read_placed(tmp_path, "averaged", SHA) == {}
    assert tuned_levels(tmp_path, "averaged", SHA, "heun", 4) is None
    assert tuned_levels(tmp_path / "nowhere", "averaged", SHA, "dpm++sde", 4) is None
    assert list(tmp_path.iterdir()) == []


def test_a_loaded_model_reads_its_own_levels_each_time_it_is_asked(tmp_path: Path):
    """Levels that are placed while a model is loaded are used by it."""
    model = stored_model(tmp_path / "model")
    assert model.read_levels("unipc", 2) is None
    add(tmp_path / "model", "unipc", placed(2.5, 9.75), sha=model.weights_sha256)
    assert model.read_levels("unipc", 2) == Tuned((2.5, 9.75))
    assert model.plan(Sampling("unipc", 2)).chain.levels.tolist() == [0, 2.5, 9.75]


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_other_weights_are_another_model(tmp_path: Path):
    add(tmp_path, "dpm++sde", FOUR)
    with pytest.raises(WrongModel, match=r"levels-averaged\.json' was measured on other weights") as raised:
        tuned_levels(tmp_path, "averaged", "b" * 64, "dpm++sde", 4)
    assert raised.value.exit_code == 3


def test_the_levels_of_another_checkpoint_are_noticed_by_every_plan_that_might_use_them(tmp_path: Path):
    one, other = stored_model(tmp_path / "one"), stored_model(tmp_path / "other", seed=1)
    add(tmp_path / "one", "unipc", placed(2.5, 9.75), sha=one.weights_sha256)
    levels_file(Path(one.source), "averaged").rename(levels_file(Path(other.source), "averaged"))
    for sampling in (Sampling(steps=2), Sampling("unipc", 2), Sampling("heun", 5)):
        with pytest.raises(WrongModel):
            other.plan(sampling)
    assert other.plan(Sampling(steps=2, spacing="uniform")).spacing == "uniform"
    assert other.plan(Sampling()).spacing == "all"


@pytest.mark.parametrize("weights", ["averaged", "raw"])
def test_the_command_that_a_refusal_names_is_of_these_weights(weights: str, tmp_path: Path):
    add(tmp_path, "dpm++sde", FOUR, weights=weights)
    with pytest.raises(WrongModel) as raised:
        read_placed(tmp_path, weights, "b" * 64)
    option = " --weights raw" if weights == "raw" else ""
    assert re.search(rf"`ddpm tune {re.escape(str(tmp_path))} --steps [^ ]+{option}`", str(raised.value))


@pytest.mark.parametrize("state", ["of other weights", "damaged", "emptied"])
def test_the_command_that_a_refusal_names_makes_a_new_file_indeed(state: str, tmp_path: Path):
    """It ends in add_placed: where the file there is of no use, it takes its place."""
    add(tmp_path, "unipc", OTHER_FOUR, sha="b" * 64 if state == "of other weights" else SHA)
    file = levels_file(tmp_path, "averaged")
    content = file.read_bytes()
    file.write_bytes({"damaged": content[:-40], "emptied": b""}.get(state, content))
    add(tmp_path, "dpm++sde", FOUR)
    assert read_placed(tmp_path, "averaged", SHA) == {"dpm++sde": {4: FOUR}}


def test_a_file_cut_short_anywhere_is_damaged(tmp_path: Path):
    add(tmp_path, "dpm++sde", FOUR)
    file = levels_file(tmp_path, "averaged")
    content = file.read_bytes()
    for length in range(len(content) - 1):  # without its last byte, a line's end, it is whole
        file.write_bytes(content[:length])
        with pytest.raises(DamagedFile, match=r"levels-averaged\.json") as raised:
            read_placed(tmp_path, "averaged", SHA)
        assert raised.value.exit_code == 4


def test_a_flipped_bit_in_any_byte_is_damage_or_changes_nothing(tmp_path: Path):
    """1e+300 and 1E+300 are one number; a version that became 3, 5 or 9 may be called newer."""
    add(tmp_path, "dpm++sde", FOUR)
    file = levels_file(tmp_path, "averaged")
    content = file.read_bytes()
    version = content.index(b'"format_version": 1') + len(b'"format_version": ')
    whole, wrong = read_placed(tmp_path, "averaged", SHA), []
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        try:
            wrong += [] if read_placed(tmp_path, "averaged", SHA) == whole else [place]
        except DamagedFile as error:
            wrong += [] if AVERAGED in str(error) else [place]
        except InputError:
            wrong += [] if place == version else [place]
    assert not wrong


@pytest.mark.parametrize("text", ["", "[]", "null", "3", "{}", '{"format": "ddpm variances"}', "\xff", "folder"])
def test_another_file_under_its_name_is_refused(text: str, tmp_path: Path):
    if text == "folder":
        levels_file(tmp_path, "averaged").mkdir()
    else:
        levels_file(tmp_path, "averaged").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedFile, match=r"levels-averaged\.json"):
        read_placed(tmp_path, "averaged", SHA)


def test_a_newer_format_is_refused_without_being_read_and_is_never_replaced(tmp_path: Path):
    add(tmp_path, "dpm++sde", FOUR)
    edited(tmp_path, lambda table: table.update(format_version=FORMAT_VERSION + 1, samplers="something new"))
    content = levels_file(tmp_path, "averaged").read_bytes()
    for attempt in (lambda: read_placed(tmp_path, "averaged", SHA), lambda: add(tmp_path, "dpm++sde", FOUR)):
        with pytest.raises(InputError, match=r"a newer ddpm would fit\.$") as raised:
            attempt()
        assert raised.value.exit_code == 2
    assert levels_file(tmp_path, "averaged").read_bytes() == content


# ---- side files in general ------------------------------------------------------------------------------------------


def read(path: Path, name: str = "ddpm spoons", version: int = 3, sha: str = SHA) -> dict[str, Any] | None:
    return read_side_file(path, name, version, weights_sha256=sha, command="`ddpm polish`")


def test_a_side_file_gives_back_its_table_and_what_it_is(tmp_path: Path):
    table = {"weights_sha256": SHA, "spoons": [1, 0.1 + 0.2, None, "Löffel"], "drawer": {"left": True}}
    path = write_side_file(tmp_path / "new" / "spoons.json", "ddpm spoons", 3, table)
    assert path == tmp_path / "new" / "spoons.json"
    found = read(path)
    assert found is not None
    assert found.items() >= table.items()
    assert (found["format"], found["format_version"]) == ("ddpm spoons", 3)
    assert found.keys() - table.keys() == {"format", "format_version", "own_sha256"}
    assert read(tmp_path / "forks.json") is None


REFUSALS: dict[str, tuple[type[Exception], dict[str, Any], str]] = {
    "other weights": (WrongModel, {"sha": "b" * 64}, "other weights than those beside it; `ddpm polish` measures"),
    "another format": (DamagedFile, {"name": "ddpm forks"}, "is no file of ddpm forks; `ddpm polish` makes one"),
    "a newer format": (InputError, {"version": 2}, "a newer ddpm would fit"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_side_file_that_does_not_fit_is_refused_by_name_with_what_to_do(case: str, tmp_path: Path):
    path = write_side_file(tmp_path / "spoons.json", "ddpm spoons", 3, {"weights_sha256": SHA})
    kind, options, words = REFUSALS[case]
    with pytest.raises(kind) as raised:
        read(path, **options)
    said = str(raised.value)
    assert said.startswith(f"'{path}'")
    assert words in said
    assert said.endswith(".")
    assert "\n" not in said


def test_an_older_format_is_read(tmp_path: Path):
    path = write_side_file(tmp_path / "spoons.json", "ddpm spoons", 2, {"weights_sha256": SHA})
    found = read(path)
    assert found is not None
    assert found["format_version"] == 2


def test_a_table_that_says_nothing_of_whose_it_is_is_our_mistake(tmp_path: Path):
    with pytest.raises(AssertionError):
        write_side_file(tmp_path / "spoons.json", "ddpm spoons", 3, {"spoons": math.pi})
    assert list(tmp_path.iterdir()) == []
