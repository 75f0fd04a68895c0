"""Every option of every command: it reaches the verb, its default is the verb's, and --help says what it is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import pytest
from commandline import COMMANDS, CONTROL, done, type_in

from ddpm import __version__, api
from ddpm.base.progress import Progress
from ddpm.samplers.plan import Sampling


class Report:
    """What a verb returns."""

    exit_code = 0
    files = ()

    def table(self) -> dict[str, Any]:
        return {"a": 1}

    def lines(self) -> list[str]:
        return ["line"]


SAMPLING = "--sampler S --steps 3 --spacing P --eta 0.5 --threshold T"
HOW = {"sampler": "S", "steps": 3, "spacing": "P", "eta": 0.5, "threshold": "T"}
MORE = "--variance V --class C --guidance 2 --precision X"
MORE_HOW = {"variance": "V", "class_name": "C", "guidance": 2.0, "precision": "X"}
LOADED = "--weights W --device D"
SIZED = "--size 8x9 --fit F --alpha A"
SIZED_HOW = {"size": "8x9", "fit": "F", "alpha": "A"}

# command: (what must be given, the rest of the options, the verb, its arguments with all of them)
PASSED: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "sample": (
        "RUN --out O",
        f"--seeds 3,1-2 {SAMPLING} {MORE} --batch-size 7 --progressive {LOADED}",
        "save_samples",
        {"model": "RUN", "out": "O", "seeds": [3, 1, 2], "progressive": True, "batch_size": 7, **HOW, **MORE_HOW},
    ),
    "evaluate likelihood": (
        "RUN --data SRC",
        "--calls 9 --full --shard 1/2 --levels 3 --variance V --rate --ode --solver-steps 5 --codec --limit 6 --seed 8 "
        f"--labels L --out O --batch-size 7 --json {SIZED} {LOADED}",
        "evaluate_likelihood",
        {"model": "RUN", "data": "SRC", "calls": 9, "full": True, "shard": "1/2", "levels": 3, "variance": "V",
         "rate": True, "ode": True, "solver_steps": 5, "codec": True, "limit": 6, "seed": 8, "out": "O",
         "labels": "L", "batch_size": 7, **SIZED_HOW},
    ),
    "evaluate fid": (
        "linear --data SRC --features F",
        f"--seeds 0-2 {SAMPLING} {MORE} --keep K --save-to S.npz --batch-size 7 --json {SIZED} {LOADED}",
        "evaluate_fid",
        {"samples": "linear", "data": "SRC", "features": "F", "seeds": [0, 1, 2], "keep": "K", "save_to": "S.npz",
         "batch_size": 7, "device": "D", **HOW, **MORE_HOW, **SIZED_HOW},
    ),
    "evaluate codec": (
        "RUN --data SRC",
        f"--limit 6 --out O --json {SIZED} {LOADED}",
        "evaluate_codec",
        {"model": "RUN", "data": "SRC", "limit": 6, "out": "O", **SIZED_HOW},
    ),
    "evaluate memorisation": (
        "RUN --data SRC",
        "--seeds 1 --sampler S --steps 3 --precision X --training-data T --out O --batch-size 7 --json "
        f"{SIZED} {LOADED}",
        "evaluate_memorisation",
        {"model": "RUN", "data": "SRC", "seeds": [1], "sampler": "S", "steps": 3, "precision": "X",
         "training_data": "T", "out": "O", "batch_size": 7, **SIZED_HOW},
    ),
    "tune ema": (
        "RUN",
        "--data SRC --steps 3 --features F --features G --samples 70 --seed 8 --batch-size 7 --device D --json",
        "tune_ema",
        {"run": "RUN", "data": "SRC", "steps": 3, "features": ["F", "G"], "samples": 70, "seed": 8, "batch_size": 7,
         "device": "D"},
    ),
    "tune variance": (
        "RUN",
        f"--data SRC --calls 9 --seed 8 --batch-size 7 --json {LOADED}",
        "tune_variance",
        {"model": "RUN", "data": "SRC", "calls": 9, "seed": 8, "batch_size": 7},
    ),
    "tune timesteps": (
        "RUN --steps 8,5",
        f"--data SRC --sampler S --features F --features G --trials 6 --samples 70 --seed 8 --batch-size 7 --json "
        f"{LOADED}",
        "tune_timesteps",
        {"model": "RUN", "data": "SRC", "steps": [8, 5], "sampler": "S", "features": ["F", "G"], "trials": 6,
         "samples": 70, "seed": 8, "batch_size": 7},
    ),
    "tune codec": (
        "RUN",
        f"--data SRC --fit-steps 9 --force --seed 8 --batch-size 7 --json {LOADED}",
        "tune_codec",
        {"model": "RUN", "data": "SRC", "fit_steps": 9, "force": True, "seed": 8, "batch_size": 7},
    ),
    "compress": (
        "RUN a.png b.png --out O",
        f"--rate 0.5 --bytes 9 --no-verify --force --batch-size 7 --json {LOADED}",
        "compress_files",
        {"model": "RUN", "paths": ["a.png", "b.png"], "out": "O", "rate": 0.5, "most_bytes": 9, "verify": False,
         "force": True, "batch_size": 7},
    ),
    "decompress": (
        "RUN a.dpc b.dpc --out O",
        f"--bytes 9 --reconstruct flow --force --batch-size 7 --json {LOADED}",
        "decompress_files",
        {"model": "RUN", "paths": ["a.dpc", "b.dpc"], "out": "O", "most_bytes": 9, "reconstruct": "flow",
         "force": True, "batch_size": 7},
    ),
    "convert": ("A B", "--size 8x9", "convert", {"src": "A", "dst": "B", "size": "8x9"}),
    "data": ("SRC", "--json", "inspect", {"src": "SRC"}),
    "prune": ("RUN", "16 32 --codec --json", "prune", {"run": "RUN", "checkpoints": ["16", "32"], "codec": True}),
}  # fmt: skip
SIGNATURES = {verb: inspect.signature(getattr(api, verb)) for verb in ("load", *(row[2] for row in PASSED.values()))}
ELSEWHERE = {"train", "show"}  # in test_train.py and test_look.py
OTHER_DEFAULTS = {("evaluate codec", "limit"), ("evaluate codec", "device"), ("compress", "device"),
                  ("decompress", "device"), ("evaluate memorisation", "seeds"),
                  ("sample", "seeds"), ("tune timesteps", "features"), ("tune ema", "features")}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Verbs that do nothing but note what they were asked; a loaded model is the word that named it."""
    noted: dict[str, dict[str, Any]] = {}

    def noting(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            bound = SIGNATURES[name].bind(*args, **kwargs).arguments
            noted[name] = bound.pop("how", {}) | bound
            return bound["path"] if name == "load" else Report()

        return call

    for name in SIGNATURES:
        monkeypatch.setattr(api, name, noting(name))
    return noted


def plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Without the progress, which must be one that prints; paths as words."""
    given = {key: value for key, value in arguments.items() if key != "progress"}
    assert isinstance(arguments.get("progress", Progress()), Progress)
    return {key: str(value) if key in ("src", "dst") else value for key, value in given.items()}


def test_every_command_is_here():
    assert {*PASSED, *ELSEWHERE} == {*COMMANDS}


@pytest.mark.parametrize("command", PASSED)
def test_options_reach_the_verb(command: str, asked: dict[str, dict[str, Any]]):
    words, rest, verb, expected = PASSED[command]
    given = {word for word in f"{words} {rest}".split() if word.startswith("--")}
    every = {max(p.opts, key=len) for p in COMMANDS[command].params if p.param_type_name == "option"} - {"--help"}
    other = {"--verify"} if command == "compress" else {"--out"} if command == "tune codec" else set()
    assert given - {"--no-verify"} == every - other, "all of them"
    end = done(*command.split(), *words.split(), *rest.split())
    assert plain(asked[verb]) == expected
    if "W" in rest.split():
        assert asked["load"] == {"path": words.split()[0], "weights": "W", "device": "D"}
    if "--json" in rest:
        assert end.out == '{\n  "a": 1\n}\n'


@pytest.mark.parametrize("command", PASSED)
def test_defaults_are_those_of_the_verb(command: str, asked: dict[str, dict[str, Any]]):
    words, _, verb, expected = PASSED[command]
    end = done(*command.split(), *words.split())
    parameters = SIGNATURES[verb].parameters
    usual = dict(vars(Sampling())) if "how" in parameters else {}
    usual |= {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    found = plain(asked[verb])
    assert found.keys() >= expected.keys() - {"device"}
    for key in found.keys() & usual.keys():
        assert found[key] == usual[key] or (command, key) in OTHER_DEFAULTS, key
    if "load" in asked:
        device = "cpu" if (command, "device") in OTHER_DEFAULTS else "auto"
        assert asked["load"] == {"path": words.split()[0], "weights": None, "device": device}
    if "--json" in PASSED[command][1]:
        assert end.out == "line\n"


def test_defaults_that_the_verb_does_not_have(asked: dict[str, dict[str, Any]]):
    found = {}
    for command in ("sample", "evaluate memorisation", "evaluate codec", "tune timesteps", "tune ema"):
        words, _, verb, _ = PASSED[command]
        done(*command.split(), *words.split())
        found[command] = asked[verb]
    assert found["sample"]["seeds"] == list(range(64))
    assert found["evaluate memorisation"]["seeds"] == list(range(256))
    assert found["evaluate codec"]["limit"] == 200
    assert found["tune timesteps"]["features"] == found["tune ema"]["features"] == ["pixels"]


def test_samples_that_are_a_source_are_not_loaded(asked: dict[str, dict[str, Any]]):
    done("evaluate", "fid", "digits:train", "--data", "digits:test", "--features", "pixels")
    assert "load" not in asked
    assert asked["evaluate_fid"]["samples"] == "digits:train"


def test_new_linear_model_is_asked_for_by_out(asked: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch):
    noted: dict[str, Any] = {}
    monkeypatch.setattr(api, "tune_linear", lambda *args, **options: noted.update(options, args=args) or Report())
    done("tune", "codec", "linear", "--data", "SRC", "--out", "O", "--fit-steps", "9", "--device", "D")
    assert plain(noted) == {"args": ("SRC", "O"), "device": "D", "fit_steps": 9}
    for words in ("linear --out O", "RUN --data SRC --out O"):
        assert "--out" in type_in("tune", "codec", *words.split()).err
    assert asked == {}


# ---- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_of_every_option_what_it_is_and_its_default(command: str):
    end = done(*command.split(), "--help")
    assert not CONTROL.search(end.out)
    assert end.err == ""
    text = " ".join(end.out.split())
    for param in COMMANDS[command].params:
        name = max(param.opts, key=len)
        assert name.lower() in text.lower()
        if name == "--help":
            continue
        said = " ".join((param.help or "").split())
        assert len(said) > 3, name
        assert said.endswith((".", "]", "...", ")")), name
        if param.param_type_name == "option" and not param.required and not getattr(param, "is_flag", False):
            assert "[default: " in said or param.default is not None or param.multiple, name


def test_groups_and_the_whole_list_their_commands():
    for words, names in (("", ("train", "sample", "evaluate", "tune", "compress", "decompress", "data", "show",
                              "convert")),
                         ("evaluate", ("likelihood", "fid", "codec", "memorisation")),
                         ("tune", ("ema", "variance", "timesteps", "codec"))):  # fmt: skip
        for typed in (words.split(), [*words.split(), "--help"]):
            end = type_in(*typed)
            assert "Traceback" not in end.err
            for name in names:
                assert re.search(rf"^  {name}  +\w", end.out + end.err, re.MULTILINE)


def test_version_is_printed():
    assert done("--version").out == f"ddpm {__version__}\n"
