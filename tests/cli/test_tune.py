"""ddpm tune: what is stored beside a checkpoint, how it is said, and that what is said can be typed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from commandline import Done, done, sentence, snapshot, type_in

CHECKPOINT = Path("run/checkpoints/0000000064")
SMALL = ("--trials", "5", "--samples", "64")
CODEC = ("--fit-steps", "5", "--data", "digits:train[0:64]")
LIKELIHOOD = ("evaluate", "likelihood", "run", "--data", "digits:test", "--calls", "256")
SAMPLE = ("sample", "run", "--seeds", "0", "--out", "a.png")


def added(run: Path, before: dict[str, str]) -> set[str]:
    """New files of a run, but locks; those that were there must be as they were."""
    after = snapshot(run)
    assert {path: after[path] for path in before} == before
    return {path for path in after.keys() - before.keys() if not Path(path).name.startswith(".")}


def test_the_choice_of_weights_is_printed_and_then_used_and_named(run: Path):
    before, typed = snapshot(run), ("tune", "ema", run, "--steps", "2", "--samples", "64")
    end = done(*typed)
    assert added(run, before) == {"checkpoints/0000000064/ema.json"}
    table = json.loads(done(*typed, "--json").out)
    assert table == json.loads(json.dumps(table | {"file": str(run / "checkpoints/0000000064/ema.json")}))
    chosen = table["chosen"]
    assert end.out.endswith(f"{chosen} weights are used from now on; --weights names others\n")
    kinds = {"ema": "ema (used), raw", "raw": "ema, raw (used)"}[chosen]
    assert f"weights       {kinds}; SHA-256" in done("show", run).out
    for words, named in (((), chosen), (("--weights", "raw"), "raw"), (("--weights", "ema"), "ema")):
        assert f"{named} weights of" in done(*SAMPLE, "--steps", "2", *words).err


CASES = [
    ("variance", "raw", "raw"),
    ("timesteps", "ema", "averaged"),
    ("codec", "raw", "raw"),
    ("codec", "ema", "averaged"),
]


@pytest.mark.parametrize(("kind", "weights", "file"), CASES)
def test_one_file_is_added_and_named_and_the_same_question_has_the_same_answer(
    kind: str, weights: str, file: str, run: Path
):
    stem, words = {
        "variance": ("variance", ("--calls", "100")),
        "timesteps": ("levels", ("--steps", "2", *SMALL)),
        "codec": ("codec", (*CODEC, "--force")),
    }[kind]
    before, typed = snapshot(run), ("tune", kind, run, *words, "--weights", weights)
    end = done(*typed)
    name = f"checkpoints/0000000064/{stem}-{file}.json"
    assert added(run, before) == {name}
    assert str(run / name) in end.out
    assert str(run / name) in done("show", run).out
    again = snapshot(run)
    data = "digits:train[0:65]" if kind == "codec" else "digits"
    table = json.loads(done(*typed, "--json", "--data", data).out)
    assert table["file"] == str(run / name)
    assert json.loads((run / name).read_text())["weights"] == file
    assert again.keys() == snapshot(run).keys()
    if kind == "codec":
        assert table["fingerprint"] not in end.out, "other data, and other files"
        assert "--force" in sentence(type_in(*(word for word in typed if word != "--force")))
    else:
        assert snapshot(run) == again


def test_what_is_said_can_be_typed(run: Path):
    end = done("tune", "timesteps", run, "--steps", "2", *SMALL)
    assert re.search(r"^2 levels: [\d.]+, [\d.]+, eta [\d.]+$", end.out, re.MULTILINE)
    typed = end.out.splitlines()[-1].removesuffix(" uses them").split()
    assert typed[0] == "sample"
    err = done("sample", run, *typed[1:], "--seeds", "0", "--out", "a.png").err
    assert "2 levels, tuned" in err
    assert f"{CHECKPOINT / 'levels-averaged.json'}" in err
    end = done("tune", "variance", run, "--calls", "100")
    assert "--variance optimal" in end.out
    for words in ((*SAMPLE, "--variance", "optimal"), (*LIKELIHOOD, "--variance", "optimal")):
        assert f"{CHECKPOINT / 'variance-averaged.json'}" in done(*words).err


NEEDS = {
    "variance": (*LIKELIHOOD, "--variance", "optimal"),
    "levels": (*LIKELIHOOD, "--levels", "3"),
    "sampling": (*SAMPLE, "--variance", "optimal"),
    "timesteps": (*SAMPLE, "--steps", "2", "--spacing", "tuned"),
    "codec": ("evaluate", "codec", "run", "--data", "digits:test", "--limit", "1"),
    "code": (*LIKELIHOOD, "--codec", "--limit", "1"),
}


def cure(end: Done, code: int) -> Done:
    """Type the command that a refusal names."""
    typed = re.search(r"`ddpm (tune [^`]+)`", sentence(end, code))
    assert typed is not None, end.err
    words = typed[1].split()
    less = {"variance": ("--calls", "100"), "timesteps": SMALL, "codec": CODEC}[words[1]]
    steps = () if words[1] != "timesteps" or "--steps" in words else ("--steps", "2")
    return done(*(word for word in words if word != "..."), *less, *steps)


@pytest.mark.parametrize(("what", "weights"), [(what, ("ema", "raw")[k % 2]) for k, what in enumerate(NEEDS)])
def test_what_was_not_tuned_is_answered_with_the_command_that_does_it(what: str, weights: str, run: Path, here: Path):
    words, before = (*NEEDS[what], "--weights", weights), snapshot(here)
    end = type_in(*words)
    assert snapshot(here) == before
    cure(end, 2)
    done(*words)


@pytest.mark.parametrize("state", ["of other weights", "damaged"])
@pytest.mark.parametrize("what", ["variance", "timesteps"])
def test_what_cannot_be_used_is_answered_with_the_command_that_helps(what: str, state: str, run: Path, here: Path):
    end = type_in(*NEEDS[what])
    cure(end, 2)
    (file,) = CHECKPOINT.glob("*-averaged.json")
    text = file.read_text()
    if state == "damaged":
        file.write_text(text[: len(text) // 2])
    else:
        older = CHECKPOINT.with_name("0000000032")
        less = {"variance": ("--calls", "100"), "timesteps": ("--steps", "2", *SMALL)}[what]
        done("tune", what, older, *less)
        (older / file.name).replace(file)
    before = snapshot(here)
    end = type_in(*NEEDS[what])
    assert f"'{file}'" in end.err
    assert snapshot(here) == before
    cure(end, 4 if state == "damaged" else 3)
    done(*NEEDS[what])


def test_linear_is_fixed_and_another_of_its_kind_is_made_by_out(kinds: Path):
    assert "ddpm tune codec linear" in sentence(type_in("tune", "variance", "linear", "--data", kinds))
    for words in (("tune", "codec", "linear"), ("tune", "codec", "linear", "--data", kinds)):
        assert "`ddpm tune codec linear --data SRC --out DIR`" in sentence(type_in(*words))
    shutil.copytree(kinds / "china", "small")
    end = done("tune", "codec", "linear", "--data", "small", "--out", "mine", "--fit-steps", "2")
    assert "mine/codec-averaged.json" in end.out
    assert "alone" in done("show", "mine").out
    assert "'mine'" in sentence(type_in("tune", "codec", "linear", "--data", "small", "--out", "mine"))


@pytest.mark.parametrize("steps", ["a", "0", "-3", "5,,8", "5,0", "1.5", ""])
def test_numbers_of_steps_that_are_none_are_answered_with_how_they_are_written(steps: str, run: Path, no_calls: None):
    said = sentence(type_in("tune", "timesteps", run, f"--steps={steps}"))
    assert f"'{steps}'" in said
    assert "5,8,10" in said
