"""Tuned timesteps lie beside their checkpoint, by sampler and number of steps (side files in general: test_sidecar)."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ddpm.base.tables import signed
from ddpm.errors import InputError, WrongModel
from ddpm.generation.draw import plan_for
from ddpm.model.timesteps import SIDECAR, TunedTimesteps, add_timesteps, read_timesteps, tuned_for
from ddpm.samplers.plan import Sampling, Tuned
from scorings import SHA, Of, edited, stored_model

AVERAGED = "levels-averaged.json"


def tuned(*levels: float, eta: float | None = None, **changes: Any) -> TunedTimesteps:
    """With numbers that need all their digits, and words that are not ASCII."""
    settings: dict[str, Any] = {
        "criterion": "Fréchet distance of 64 samples to 1500 images of Ångström, features pixels (pixels)",
        "value": 1 / 3,
        "before": 1e300,
        "best_named": "karras",
        "samples": 64,
        "calls": 1280,
        "seed": -3,
        "data": "Ångström:train",
        "trials": 20,
    }
    return TunedTimesteps(levels, eta, **settings | changes)


FOUR, OTHER_FOUR = tuned(1.5, 0.1 + 4, 700.123, 999.0, eta=0.5), tuned(1.0, 2.0, 3.0, 4.0)


@pytest.fixture
def of(tmp_path: Path) -> Of:
    return Of(str(tmp_path))


def add(of: Of, sampler: str, *found: TunedTimesteps) -> None:
    for each in found:
        assert add_timesteps(of, sampler, each) == SIDECAR.path(of)


def everything(of: Of) -> dict[str, dict[int, TunedTimesteps | None]]:
    """All that is stored, as it is read."""
    table = SIDECAR.read(of)
    assert table is not None
    return {
        sampler: {int(steps): read_timesteps(of, sampler, int(steps)) for steps in found}
        for sampler, found in table["samplers"].items()
    }


# ---- what is stored -------------------------------------------------------------------------------------------------


def test_what_is_added_is_read_back_to_the_last_digit(of: Of):
    add(of, "dpm++sde", FOUR)
    assert [file.name for file in Path(of.source).iterdir() if not file.name.startswith(".")] == [AVERAGED]
    assert everything(of) == {"dpm++sde": {4: FOUR}}
    assert tuned_for(of, "dpm++sde", 4) == Tuned(FOUR.levels, 0.5)


def test_samplers_and_numbers_of_steps_lie_side_by_side_and_the_same_again_is_replaced(of: Of):
    two, ten = tuned(10.5, 900.5), tuned(*map(float, range(1, 11)), eta=0.0)
    add(of, "heun", OTHER_FOUR)
    add(of, "dpm++sde", ten, OTHER_FOUR, two, FOUR)
    assert everything(of) == {"dpm++sde": {2: two, 4: FOUR, 10: ten}, "heun": {4: OTHER_FOUR}}
    text = SIDECAR.path(of).read_text(encoding="utf-8")
    assert list(json.loads(text)["samplers"]["dpm++sde"]) == ["2", "4", "10"], "in the order of their steps"
    assert tuned_for(of, "heun", 4) == Tuned(OTHER_FOUR.levels)
    assert tuned_for(of, "heun", 2) is None
    assert tuned_for(of, "unipc", 4) is None


def test_ema_and_raw_weights_have_files_of_their_own(of: Of):
    raw = replace(of, weights="raw")
    add(of, "dpm++sde", FOUR)
    add(raw, "dpm++sde", OTHER_FOUR)
    assert everything(of) == {"dpm++sde": {4: FOUR}}
    assert everything(raw) == {"dpm++sde": {4: OTHER_FOUR}}


def test_where_nothing_was_tuned_there_is_nothing(of: Of):
    assert tuned_for(of, "heun", 4) is None
    assert tuned_for(Of(of.source + "/nowhere"), "dpm++sde", 4) is None
    assert list(Path(of.source).iterdir()) == []


def add_some(of: Of, sampler: str) -> None:
    for steps in range(1, 11):
        add_timesteps(of, sampler, tuned(*map(float, range(1, steps + 1))))


def test_processes_that_add_at_the_same_time_lose_nothing(of: Of):
    names = ["ddim", "heun", "unipc"]
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=add_some, args=(of, name)) for name in names]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert {name: sorted(found) for name, found in everything(of).items()} == {n: [*range(1, 11)] for n in names}


def test_a_loaded_model_reads_its_own_levels_each_time_it_is_asked(tmp_path: Path):
    """Levels that are tuned while a model is loaded are used by it."""
    model = stored_model(tmp_path / "model")
    assert tuned_for(model, "unipc", 2) is None
    add_timesteps(model, "unipc", tuned(2.5, 9.75))
    assert tuned_for(model, "unipc", 2) == Tuned((2.5, 9.75))
    assert plan_for(model, Sampling("unipc", 2)).chain.levels.tolist() == [0, 2.5, 9.75]


# ---- files of earlier versions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reach", [1.0, None])
def test_on_disk_samples_are_called_pictures_and_a_reach_of_one_is_overlooked(reach: float | None, of: Of):
    add(of, "dpm++sde", FOUR)
    entry = json.loads(SIDECAR.path(of).read_text(encoding="utf-8"))["samplers"]["dpm++sde"]["4"]
    assert entry["pictures"] == 64
    assert not {"samples", "reach"} & entry.keys()
    edited(SIDECAR.path(of), lambda table: table["samplers"]["dpm++sde"]["4"].update(reach=reach))
    assert everything(of) == {"dpm++sde": {4: FOUR}}


def test_another_reach_is_refused_by_name_until_its_levels_are_tuned_again(of: Of):
    """Those of other numbers of steps and other samplers are used all the same."""
    add(of, "dpm++sde", FOUR, tuned(3.0, 4.0, 5.0))
    add(of, "unipc", OTHER_FOUR)
    edited(SIDECAR.path(of), lambda table: table["samplers"]["dpm++sde"]["4"].update(reach=1.25))
    with pytest.raises(InputError, match=rf"{AVERAGED}.*reach 1\.25.*`ddpm tune timesteps {of.source}`") as raised:
        tuned_for(of, "dpm++sde", 4)
    assert raised.value.exit_code == 2
    assert tuned_for(of, "dpm++sde", 3) == Tuned((3.0, 4.0, 5.0))
    assert tuned_for(of, "unipc", 4) == Tuned(OTHER_FOUR.levels)
    add(of, "heun", OTHER_FOUR)
    with pytest.raises(InputError, match="reach"):
        tuned_for(of, "dpm++sde", 4)
    add(of, "dpm++sde", FOUR)
    assert tuned_for(of, "dpm++sde", 4) == Tuned(FOUR.levels, 0.5)


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_the_levels_of_another_checkpoint_are_noticed_by_every_plan_that_might_use_them(tmp_path: Path):
    one, other = stored_model(tmp_path / "one"), stored_model(tmp_path / "other", seed=1)
    add_timesteps(one, "unipc", tuned(2.5, 9.75))
    SIDECAR.path(one).rename(SIDECAR.path(other))
    for sampling in (Sampling(steps=2), Sampling("unipc", 2), Sampling("heun", 5)):
        with pytest.raises(WrongModel, match=AVERAGED):
            plan_for(other, sampling)
    assert plan_for(other, Sampling(steps=2, spacing="uniform")).spacing == "uniform"
    assert plan_for(other, Sampling()).spacing == "all"


@pytest.mark.parametrize("state", ["of other weights", "damaged", "emptied"])
def test_a_file_of_no_use_is_replaced(state: str, of: Of):
    """The command that a refusal names ends in add_timesteps."""
    add(replace(of, weights_sha256="b" * 64 if state == "of other weights" else SHA), "unipc", OTHER_FOUR)
    file = SIDECAR.path(of)
    content = file.read_bytes()
    file.write_bytes({"damaged": content[:-40], "emptied": b""}.get(state, content))
    add(of, "dpm++sde", FOUR)
    assert everything(of) == {"dpm++sde": {4: FOUR}}


def test_a_newer_format_is_never_replaced(of: Of):
    add(of, "dpm++sde", FOUR)
    edited(SIDECAR.path(of), lambda table: table.update(format_version=2, samplers="something new"))
    content = SIDECAR.path(of).read_bytes()
    for attempt in (lambda: tuned_for(of, "dpm++sde", 4), lambda: add(of, "dpm++sde", FOUR)):
        with pytest.raises(InputError, match="newer ddpm") as raised:
            attempt()
        assert raised.value.exit_code == 2
    assert SIDECAR.path(of).read_bytes() == content
    assert signed(json.loads(content))["own_sha256"] == json.loads(content)["own_sha256"]
