"""What the documents say exists: the trees, the commands, the Python, the keys, the links and `--help`.

The README's commands and Python are also run: test_readme.py.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from pydantic import BaseModel
from typer.testing import CliRunner

import ddpm
from ddpm.cli import app
from ddpm.cli.console import parse_changes
from ddpm.codec.decode import RECONSTRUCTIONS
from ddpm.data.sizing import FITS
from ddpm.diffusion.denoiser import OPTIMAL, THRESHOLDS
from ddpm.diffusion.schedule import VARIANCES
from ddpm.model.model import build_network
from ddpm.model.recipe import Recipe, load_recipe, recipe_names, resolve
from ddpm.model.sidecar import EMA, RAW
from ddpm.samplers.plan import SAMPLERS, TUNED
from ddpm.samplers.spacing import SPACINGS

PROJECT = Path(__file__).resolve().parents[1]
TEXTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
PACKAGE = PROJECT / "src" / "ddpm"
SHELL = {"console", "sh"}


def all_commands() -> dict[str, Any]:
    """Every command by its words: "train", "evaluate fid", ..."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        below = getattr(command, "commands", None)
        found |= {name: command} if below is None else {f"{name} {one}": below[one] for one in below}
    return found


COMMANDS = all_commands()


def split_command(words: list[str]) -> tuple[str, list[str]]:
    """The command that words begin with, and the rest."""
    count = 1 if words[0] in COMMANDS else 2
    return " ".join(words[:count]), words[count:]


def name_of(value: object) -> str:
    """A test's name for a file of the project."""
    return value.relative_to(PROJECT).as_posix() if isinstance(value, Path) else str(value)


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks in some languages ("" for none)."""
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [body for language, body in found if language in languages]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# ---- trees ----------------------------------------------------------------------------------------------------------


def entries(block: str) -> Iterator[str]:
    """The paths a drawn tree lists, from the project's root.

    A line starts with names, each ending in "/" or a suffix; what follows three spaces, or is no name, is prose. A name
    belongs to the nearest line above that is less indented and starts with a folder.
    """
    above: list[tuple[int, str]] = []
    for line in block.splitlines():
        indent = len(line) - len(line.lstrip(" │├└─"))
        above = [(other, folder) for other, folder in above if other < indent]
        folder = above[-1][1] if above else ""
        names = []
        for word in line[indent:].split("   ")[0].split():
            if not re.fullmatch(r"[\w./-]*(/|\.\w+|LICENSE|Makefile)", word):
                break
            names.append(word)
        yield from (folder + name for name in names)
        if names and names[0].endswith("/"):
            above.append((indent, folder + names[0]))


def on_disk(folder: Path) -> set[str]:
    """Modules and folders in a folder of the package."""
    modules = {file.name for file in folder.glob("*.py") if file.name != "__init__.py"}
    folders = {f"{entry.name}/" for entry in folder.iterdir() if entry.is_dir() and entry.name != "__pycache__"}
    return modules | folders


@pytest.mark.parametrize("path", [PROJECT / "README.md", PROJECT / "docs" / "design.md"], ids=name_of)
def test_tree_lists_what_is_there_and_nothing_else(path: Path):
    trees = [block for block in blocks(read(path), "", "text") if re.search(r"^src/ddpm/", block, re.MULTILINE)]
    assert len(trees) == 1, "one fenced tree with a line src/ddpm/"
    listed = list(entries(trees[0]))
    assert len(listed) == len(set(listed))
    assert [entry for entry in listed if not (PROJECT / entry).exists()] == []
    inside = {entry for entry in listed if entry.startswith("src/ddpm/")}
    for folder in {"src/ddpm/"} | {entry.rpartition("/")[0] + "/" for entry in inside if entry.endswith(".py")}:
        named = {entry.removeprefix(folder) for entry in inside if entry.startswith(folder) and entry != folder}
        missing = on_disk(PROJECT / folder) - {entry.split("/")[0] + "/" * ("/" in entry) for entry in named}
        assert missing == set(), f"{folder} holds more than the tree says"


def test_entries_of_a_tree_are_read():
    drawn = "a.md LICENSE\nsrc/x/\n  one.py  two/   a.py is prose\n  three/     prose\n    four.py  it\ntests/  t\n"
    wanted = "a.md LICENSE src/x/ src/x/one.py src/x/two/ src/x/three/ src/x/three/four.py tests/"
    assert list(entries(drawn)) == wanted.split()
    assert list(entries("x/\n├── a.py   prose\n└── b/\n    └── c.py\n")) == ["x/", "x/a.py", "x/b/", "x/b/c.py"]


# ---- commands -------------------------------------------------------------------------------------------------------


def shell_lines(text: str) -> list[list[str]]:
    """The words of every command in the console and sh blocks, up to a pipe, a redirection or a comment.

    In blocks with prompts, where answers stand too, the commands of ddpm alone.
    """
    found = []
    for block in blocks(text, *SHELL):
        lines = block.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ddpm ")]
        for line in lines:
            words = shlex.split(line, comments=True)
            end = next((k for k, word in enumerate(words) if word in {"|", ">", "&&", "2>"}), len(words))
            if words[:end]:
                found.append(words[:end])
    return found


def commands(path: Path) -> list[list[str]]:
    return [words[1:] for words in shell_lines(read(path)) if words[0] == "ddpm"]


DOCUMENTED = [
    pytest.param(words, id=f"{name_of(p)}: {shlex.join(words)}")
    for p in TEXTS
    if p.name != "troubleshooting.md"  # whose commands are run, and some of them refused
    for words in commands(p)
]


@pytest.mark.parametrize("words", DOCUMENTED)
def test_documented_command_is_one_that_ddpm_takes(words: list[str]):
    if words[0] in {"--help", "--version"}:
        return
    name, rest = split_command(words)
    assert name in COMMANDS
    said = CliRunner().invoke(app, [*name.split(), "--help"]).output
    assert [word for word in rest if word.startswith("--") and word.split("=")[0] not in said] == []
    if "--help" not in rest:
        context = COMMANDS[name].make_context(name, list(rest))
        if name == "train":
            recipe, settings = context.params["recipe"], context.params["settings"]
            assert recipe in recipe_names() or recipe.endswith(".toml")
            if recipe in recipe_names():
                load_recipe(recipe, parse_changes(settings or []))


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_documented_make_target_exists(path: Path):
    targets = set(re.findall(r"^([a-z-]+):", read(PROJECT / "Makefile"), re.MULTILINE))
    in_blocks = {words[1] for words in shell_lines(read(path)) if words[0] == "make" and len(words) > 1}
    in_prose = set(re.findall(r"`make ([a-z-]+)`", read(path)))
    assert in_blocks | in_prose <= targets


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_option_in_prose_is_one_of_a_command_of_ours(path: Path):
    ours = {option for command in COMMANDS.values() for p in command.params for option in [*p.opts, *p.secondary_opts]}
    ours |= {"--help", "--version"}
    spans = [span for span in re.findall(r"`([^`\n]+)`", read(path)) if not re.match(r"(\S*pip|\S*python3?) ", span)]
    spans = [span for span in spans if " pip install" not in span and "/pip install" not in span]
    named = {option for span in spans for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)}
    assert named <= ours


def test_readme_shows_every_command():
    shown = {split_command(words)[0] for words in commands(PROJECT / "README.md")}
    assert set(COMMANDS) <= shown


# ---- --help ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_and_explains_every_option(name: str):
    end = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"})
    assert end.exit_code == 0
    for parameter in COMMANDS[name].params:
        shown = parameter.opts[0] if parameter.opts[0].startswith("--") else parameter.name
        assert shown in end.output
        assert getattr(parameter, "help", None), f"{name} {shown} says nothing about itself"
    assert COMMANDS[name].help


CHOICES = {
    "train --fit": FITS,
    "sample --sampler": SAMPLERS,
    "sample --variance": (*VARIANCES, OPTIMAL),
    "sample --weights": (EMA, RAW, "ema-"),
    "sample --spacing": (*SPACINGS, TUNED),
    "sample --threshold": THRESHOLDS,
    "tune timesteps --sampler": SAMPLERS,
    "decompress --reconstruct": RECONSTRUCTIONS,
}


@pytest.mark.parametrize("option", CHOICES)
def test_help_names_every_choice(option: str):
    command, flag = option.rsplit(" ", 1)
    parameter = next(p for p in COMMANDS[command].params if flag in p.opts)
    assert [choice for choice in CHOICES[option] if choice not in (parameter.help or "")] == []


# ---- Python ---------------------------------------------------------------------------------------------------------

PYTHON = [pytest.param(code, id=f"{name_of(p)} {k}") for p in TEXTS for k, code in enumerate(blocks(read(p), "python"))]


def is_verb(node: ast.AST) -> bool:
    """Whether a node is ddpm.NAME."""
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ddpm"


@pytest.mark.parametrize("block", PYTHON)
def test_documented_python_uses_names_and_arguments_that_exist(block: str):
    from ddpm import api

    for node in ast.walk(ast.parse(block)):
        if is_verb(node):
            assert node.attr in ddpm.__all__, f"line {node.lineno}: ddpm.{node.attr}"
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ddpm":
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        if isinstance(node, ast.Call) and is_verb(node.func):
            takes = inspect.signature(getattr(api, node.func.attr))
            takes.bind(*node.args, **{keyword.arg: None for keyword in node.keywords})
            if node.func.attr == "recipe":
                changes = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
                load_recipe(ast.literal_eval(node.args[0]), changes)


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_modules_and_verbs_in_prose_exist(path: Path):
    named = set(re.findall(r"`ddpm\.(\w+)[`.(]", read(path)))
    assert [n for n in named if n not in ddpm.__all__ and importlib.util.find_spec(f"ddpm.{n}") is None] == []


# ---- recipes and keys -----------------------------------------------------------------------------------------------


def tables(text: str) -> list[list[dict[str, str]]]:
    """Markdown tables as rows of {column: cell}."""
    found: list[list[dict[str, str]]] = []
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        found.append([dict(zip(rows[0], row, strict=True)) for row in rows[2:]])
    return found


def defaults(table: type[BaseModel] = Recipe, prefix: str = "") -> dict[str, Any]:
    """{dotted key: default} of every recipe."""
    found: dict[str, Any] = {}
    for name, field in table.model_fields.items():
        below = field.annotation
        if isinstance(below, type) and issubclass(below, BaseModel):
            found |= defaults(below, f"{prefix}{name}.")
        else:
            found[prefix + name] = field.default
    return found


def value_of(cell: str) -> object:
    """A default as a table writes it; thousands may have commas."""
    text = cell.strip("`")
    if text in {"unset", "from the data"}:
        return None
    text = text.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+", text) else text
    return tomllib.loads(f"value = {text}")["value"]


def test_every_key_is_described_with_its_default():
    rows = next(table for table in tables(read(PROJECT / "docs" / "recipes.md")) if "key" in table[0])
    described = {row["key"].strip("`"): row for row in rows}
    assert len(described) == len(rows)
    assert set(described) == set(defaults())
    for key, default in defaults().items():
        said = value_of(described[key]["default"])
        assert (tuple(said) if isinstance(said, list) else said) == default, key
        assert described[key]["what it is"]


def test_every_shipped_recipe_is_listed_with_its_size():
    rows = next(table for table in tables(read(PROJECT / "docs" / "recipes.md")) if "recipe" in table[0])
    listed = {row["recipe"].strip("`"): row for row in rows}
    assert sorted(listed) == recipe_names()
    for name, row in listed.items():
        recipe = load_recipe(name)
        number, _, million = row["images"].partition(" ")
        assert float(number.replace(",", "")) * (1_000_000 if million == "M" else 1) == recipe.train_images, name
        if re.fullmatch(r"[\d,]+", row["parameters"]):
            with torch.device("meta"):
                network = build_network(resolve(recipe, recipe.geometry, recipe.network.classes or 0))
            assert f"{sum(p.numel() for p in network.parameters()):,}" == row["parameters"], name


# ---- links ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_links_to_files_of_the_project_lead_somewhere(path: Path):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(path))
    inside = [target for target in targets if not re.match(r"\w+:", target)]
    assert [target for target in inside if not (path.parent / target).exists()] == []


WORDS_OF_OTHERS = r"would fit|ordinary means|\bpictures?\b|means nothing to|makes no sense"


@pytest.mark.parametrize("path", [*TEXTS, *sorted(PACKAGE.rglob("*.py"))], ids=name_of)
def test_words_are_the_project_s_own(path: Path):
    """docs/design.md lists the words; these are the ones it replaced. On disk the number of samples is "pictures"."""
    text = read(path).replace('"pictures"', "").replace("are called pictures", "")
    assert re.findall(WORDS_OF_OTHERS, text, re.IGNORECASE) == []
