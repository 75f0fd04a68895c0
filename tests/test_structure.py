"""The floors of the house (docs/design.md), read from the imports with `ast`; and what may lie in the repository.

A file imports from its own floor or lower, modules form no cycle, and the folders of floor 5 do not know each other.
Every import counts, also those inside functions and under TYPE_CHECKING. `problems` is a function of a folder, so
that the second half of this file can show it houses which break each rule.
"""

from __future__ import annotations

import ast
import copy
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
HOUSE = PROJECT / "src" / "ddpm"

FLOORS = (
    ("errors.py", "files.py", "geometry.py", "units.py", "tensors.py", "gaussians.py", "seeding.py", "pictures.py"),
    ("schedule.py", "networks/", "data/", "distances/"),
    ("process.py", "measured.py", "denoiser.py"),
    ("objectives.py", "likelihood/", "samplers/"),
    (
        "recipe.py",
        "model.py",
        "checkpoint.py",
        "opened.py",
        "sidefile.py",
        "tuned.py",
        "placed.py",
        "scored.py",
        "drawn.py",
        "kept.py",
    ),
    ("training/", "evaluation/", "codec/", "convert/", "editing/"),
    ("api.py",),
    ("cli/", "ui/"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
SEPARATE = 5  # the floor whose folders do not import each other
API = "ddpm.api"

FILE_LINES, FUNCTION_LINES = 320, 70  # both stay below these
FILE_BYTES, PICTURE_BYTES = 4_000_000, 300_000
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg"}


# ---- the checker ----------------------------------------------------------------------------------------------------


def problems(house: Path) -> list[str]:
    """Everything that breaks a rule under a folder laid out like src/ddpm, one sentence each."""
    texts = {file.relative_to(house).as_posix(): file.read_text(encoding="utf-8") for file in house.rglob("*.py")}
    names = {module_name(where) for where in texts}
    trees, found = {}, []
    for where, text in sorted(texts.items()):
        try:
            trees[where] = ast.parse(text)
        except SyntaxError as error:
            found.append(f"{where} is not Python: {error}.")
            continue
        found += too_long(where, text, trees[where])
    graph = {where: set(imports(where, tree, names)) for where, tree in trees.items()}
    for where, targets in graph.items():
        found += misplaced(where, sorted(targets), trees[where])
    return found + cycles({module_name(where): targets for where, targets in graph.items()})


def too_long(where: str, text: str, tree: ast.Module) -> Iterator[str]:
    lines = len(text.splitlines())
    if lines >= FILE_LINES:
        yield f"{where} has {lines} lines; a file stays under {FILE_LINES}."
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines >= FUNCTION_LINES:
                yield f"{where}: {node.name} has {lines} lines; a function stays under {FUNCTION_LINES}."


def misplaced(where: str, targets: list[str], tree: ast.Module) -> Iterator[str]:
    """Imports that go upward or sideways, and files the table does not know."""
    if where == "__init__.py":
        if any(target.startswith("ddpm") for target in imports(where, at_import_time(tree), set())):
            yield "__init__.py imports from ddpm at import time; it hands names on lazily (PEP 562)."
        return
    room = room_of(module_name(where), is_folder="/" in where)
    if room not in FLOOR_OF:
        yield f"{where} is on no floor; give it a place in FLOORS of tests/test_structure.py and in docs/design.md."
        return
    for target in targets:
        other = next((r for r in (room_of(target, is_folder=True), room_of(target)) if r in FLOOR_OF), None)
        if other is None:
            continue  # an unknown file is reported where it lies
        if FLOOR_OF[other] > FLOOR_OF[room]:
            yield f"{where} (floor {FLOOR_OF[room]}) imports {target} (floor {FLOOR_OF[other]}); imports never go up."
        elif FLOOR_OF[other] == FLOOR_OF[room] == SEPARATE and other != room:
            yield f"{where} imports {target}; the folders of floor {SEPARATE} do not import each other."


def room_of(module: str, *, is_folder: bool = False) -> str:
    """The entry of FLOORS a module belongs to: `ddpm.data.idx` is in `data/`, `ddpm.units` is `units.py`."""
    top = module.split(".")[1]
    return f"{top}/" if is_folder else f"{top}.py"


def module_name(where: str) -> str:
    """data/idx.py -> ddpm.data.idx; data/__init__.py -> ddpm.data"""
    parts = ["ddpm", *where.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(where: str, tree: ast.AST, names: set[str]) -> Iterator[str]:
    """The modules of ours that a file imports, as absolute dotted names.

    names  all modules there are: they tell `from ddpm.data import idx` (a module) from `... import Source` (a name)

    What `import ddpm` and `from ddpm import train` give comes from the api; only `__version__` belongs to nobody.
    """
    package = module_name(where).split(".") if where.endswith("__init__.py") else module_name(where).split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "ddpm":
                    yield API if alias.name == "ddpm" else alias.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            if source.split(".")[0] != "ddpm":
                continue
            for alias in node.names:
                if f"{source}.{alias.name}" in names:
                    yield f"{source}.{alias.name}"
                elif source != "ddpm":
                    yield source
                elif alias.name != "__version__":
                    yield API


def at_import_time(tree: ast.Module) -> ast.Module:
    """The module without what runs later or never: bodies of functions, and blocks under TYPE_CHECKING."""

    class Now(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST:
            if ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
                node.body = []
            return self.generic_visit(node)

    return Now().visit(copy.deepcopy(tree))


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """One sentence for each cycle a depth-first walk meets; the lazy ddpm/__init__.py is not part of any."""
    found, done = [], set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            found.append(f"{' -> '.join([*path[path.index(module) :], module])} is a cycle of imports.")
        elif module in graph and module not in done and module != "ddpm":
            for target in sorted(graph[module]):
                walk(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found


# ---- the house ------------------------------------------------------------------------------------------------------


def test_every_import_stays_on_its_floor_or_goes_down():
    assert problems(HOUSE) == []


# ---- the checker finds what it is for -------------------------------------------------------------------------------

SOUND = {
    "__init__.py": "from typing import TYPE_CHECKING\n"
    "if TYPE_CHECKING:\n    from ddpm.api import train\n"
    "def __getattr__(name):\n    from ddpm import api\n    return getattr(api, name)\n",
    "units.py": "import torch\nfrom ddpm import __version__\n",
    "data/__init__.py": "from ddpm.data.idx import read\n",
    "data/idx.py": "from . import png\nfrom ..units import images_to_x\n",
    "data/png.py": "import ddpm.units\n",
    "training/loop.py": "from ddpm.data import idx, read\nfrom ddpm.units import x_to_images\n",
    "evaluation/bits.py": "from ddpm import units\n",
    "api.py": "from ddpm.evaluation import bits\nfrom ddpm.training.loop import train\n",
    "cli/main.py": "def run():\n    from ddpm import train\n    import ddpm\n",
}

BROKEN = {
    "upward": ({"units.py": "from ddpm.data.idx import read\n"}, "units.py (floor 0) imports ddpm.data.idx (floor 1)"),
    "upward, relative": ({"data/png.py": "from ..training import loop\n"}, "imports ddpm.training.loop (floor 5)"),
    "upward, import x.y": ({"units.py": "import ddpm.api\n"}, "units.py (floor 0) imports ddpm.api (floor 6)"),
    "upward, in a function": ({"units.py": "def f():\n    import ddpm.api\n"}, "imports ddpm.api (floor 6)"),
    "upward, for types": (
        {"units.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ddpm.api import train\n"},
        "units.py (floor 0) imports ddpm.api (floor 6)",
    ),
    "upward, by a handed-on name": ({"data/png.py": "from ddpm import train\n"}, "imports ddpm.api (floor 6)"),
    "upward, by the package": ({"data/png.py": "import ddpm\n"}, "data/png.py (floor 1) imports ddpm.api (floor 6)"),
    "sideways on floor 5": (
        {"evaluation/bits.py": "from ddpm.training.loop import train\n"},
        "the folders of floor 5 do not import each other",
    ),
    "cycle of two": (
        {"data/png.py": "from ddpm.data import idx\n"},
        "ddpm.data.idx -> ddpm.data.png -> ddpm.data.idx is a cycle",
    ),
    "cycle through the package": (
        {"data/png.py": "from ddpm.data import read\n"},
        "ddpm.data -> ddpm.data.idx -> ddpm.data.png -> ddpm.data is a cycle",
    ),
    "cycle with itself": ({"units.py": "from ddpm.units import x\n"}, "ddpm.units -> ddpm.units is a cycle"),
    "eager package": ({"__init__.py": "from ddpm.api import train\n"}, "__init__.py imports from ddpm at import time"),
    "eager package, relative": ({"__init__.py": "from .api import train\n"}, "imports from ddpm at import time"),
    "eager package, in try": (
        {"__init__.py": "try:\n    import ddpm.api\nexcept ImportError:\n    pass\n"},
        "imports from ddpm at import time",
    ),
    "eager package, when not checking types": (
        {"__init__.py": "if TYPE_CHECKING:\n    pass\nelse:\n    import ddpm.api\n"},
        "imports from ddpm at import time",
    ),
    "unknown file": ({"helpers.py": ""}, "helpers.py is on no floor"),
    "unknown folder": ({"misc/things.py": ""}, "misc/things.py is on no floor"),
    "code among the recipes": ({"recipes/__init__.py": ""}, "recipes/__init__.py is on no floor"),
    "folder where a file belongs": ({"schedule/linear.py": ""}, "schedule/linear.py is on no floor"),
    "file where a folder belongs": ({"samplers.py": ""}, "samplers.py is on no floor"),
    "long file": ({"units.py": "\n" * FILE_LINES}, f"units.py has {FILE_LINES} lines"),
    "long function": ({"units.py": "def f():\n" + "    0\n" * (FUNCTION_LINES - 1)}, f"f has {FUNCTION_LINES} lines"),
    "long method": (
        {"units.py": "class A:\n    async def f(self):\n" + "        0\n" * (FUNCTION_LINES - 1)},
        f"f has {FUNCTION_LINES} lines",
    ),
    "not Python": ({"units.py": "def f(:\n"}, "units.py is not Python"),
}


def build(house: Path, files: dict[str, str]) -> Path:
    for where, text in files.items():
        (house / where).parent.mkdir(parents=True, exist_ok=True)
        (house / where).write_text(text, encoding="utf-8")
    return house


def test_checker_accepts_a_sound_house(tmp_path: Path):
    almost = {"pictures.py": "def f():\n" + "    0\n" * (FUNCTION_LINES - 2) + "\n" * (FILE_LINES - FUNCTION_LINES)}
    assert problems(build(tmp_path, SOUND | almost)) == []


@pytest.mark.parametrize("case", BROKEN)
def test_checker_reports_the_rule_that_is_broken_and_no_other(case: str, tmp_path: Path):
    files, sentence = BROKEN[case]
    found = problems(build(tmp_path, SOUND | files))
    assert [line for line in found if sentence in line], found
    # An import upward mostly closes a cycle as well.
    assert [line for line in found if sentence not in line and not line.endswith("is a cycle of imports.")] == []


# ---- the repository -------------------------------------------------------------------------------------------------


def listed_by_git(*which: str) -> list[Path]:
    if not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", *which]
    names = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True).stdout.decode().split("\0")
    return [PROJECT / name for name in names if name and (PROJECT / name).is_file()]


def test_no_file_in_the_repository_or_on_its_way_there_is_large():
    files = listed_by_git("--cached", "--others", "--exclude-standard")
    limits = {file: PICTURE_BYTES if file.suffix.lower() in PICTURES else FILE_BYTES for file in files}
    sizes = {file.relative_to(PROJECT).as_posix(): (file.stat().st_size, limit) for file, limit in limits.items()}
    assert [f"{name}: {size} bytes, at most {limit} fit" for name, (size, limit) in sizes.items() if size > limit] == []


# Written with [] and () so that this file does not match itself.
SOMEBODYS_FOLDER = re.compile(rb"(?<![\w.~-])(?:/(?:home|Users)/\w|/[r]oot/|[A-Z]:\\+Users\\)")


def test_no_file_in_the_repository_names_a_folder_of_somebodys_machine():
    here = re.compile(rb"(?<![\w./~-])" + re.escape(str(PROJECT).encode()) + rb"(?![\w-])")
    patterns = [SOMEBODYS_FOLDER, *([here] if len(PROJECT.parts) > 2 else [])]
    texts = {str(file.relative_to(PROJECT)): file.read_bytes() for file in listed_by_git("--cached")}
    assert [name for name, text in texts.items() if any(pattern.search(text) for pattern in patterns)] == []


@pytest.mark.parametrize("text", [r"at /{}/ada/x.py", r"C:\{}\ada", r'"/{}/ada"'])
def test_folders_of_somebodys_machine_are_recognised(text: str):
    assert SOMEBODYS_FOLDER.search(text.format("Users").encode())
    assert not SOMEBODYS_FOLDER.search(text.format("User").encode())
