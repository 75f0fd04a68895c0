"""The layers of the package (docs/design.md), read from the imports with `ast`; and what may lie in the repository.

A file imports from its own layer or a lower one, and modules form no cycle. Every import counts, also those inside
functions and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "src" / "ddpm"

LAYERS = (
    ("errors", "base"),
    ("networks", "data", "metrics", "diffusion"),
    ("samplers", "likelihood"),
    ("model",),
    ("generation", "codec", "conversion"),
    ("training", "tuning"),
    ("evaluation",),
    ("api",),
    ("cli",),
    ("__main__",),
)
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}
ORDER = ("schedule", "process", "optimal_variance", "denoiser", "decoder", "bound", "objectives")
"""How diffusion/ is to be read: a file imports from those before it."""
SHARED_NAMES = {"variances", "timesteps", "__init__"}
"""File names that stand twice: what tuning/ makes, model/ writes down."""

FILE_LINES, FUNCTION_LINES, DIFFUSION_LINES = 320, 70, 800  # all stay below these
FILE_BYTES, IMAGE_BYTES = 4_000_000, 300_000
IMAGES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg"}


# ---- the checker ----------------------------------------------------------------------------------------------------


def problems(package: Path) -> list[str]:
    """Everything that breaks a rule under a folder laid out like src/ddpm, one sentence each."""
    trees = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        trees[".".join(("ddpm", *parts)).removesuffix(".__init__")] = ast.parse(file.read_text(encoding="utf-8"))
    graph = {module: set(imports(tree, set(trees))) for module, tree in trees.items() if module != "ddpm"}
    found = [sentence for module, targets in graph.items() for sentence in misplaced(module, sorted(targets))]
    return found + cycles(graph)


def misplaced(module: str, targets: list[str]) -> Iterator[str]:
    """Imports that go up, and modules that no layer knows."""
    if place(module) not in LAYER_OF:
        yield f"{module} is in no layer: give it a place in LAYERS and in docs/design.md."
        return
    for target in targets:
        if LAYER_OF.get(place(target), -1) > LAYER_OF[place(module)]:
            yield f"{module} imports {target}, which lies above it."


def place(module: str) -> str:
    """ddpm.data.items -> data"""
    return module.split(".")[1] if "." in module else "api"


def imports(tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """The modules of ours that a file imports; what `import ddpm` and `from ddpm import train` give is the api's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            within = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else str(node.module) for name in within]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "ddpm":
                yield "ddpm.api" if name == "ddpm" else name


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """One sentence for each cycle a depth-first walk meets."""
    found, done = [], set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            found.append(f"{' -> '.join([*path[path.index(module) :], module])} is a cycle of imports.")
        elif module in graph and module not in done:
            for target in sorted(graph[module]):
                walk(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found


# ---- the package ----------------------------------------------------------------------------------------------------


def sources() -> dict[Path, ast.Module]:
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(PACKAGE.rglob("*.py"))}


def test_every_import_stays_in_its_layer_or_goes_down():
    assert problems(PACKAGE) == []


def test_diffusion_reads_in_its_order_and_stays_short():
    files = [PACKAGE / "diffusion" / f"{name}.py" for name in ORDER]
    assert {file.stem for file in (PACKAGE / "diffusion").glob("*.py")} == {*ORDER, "__init__"}
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) < DIFFUSION_LINES
    for number, file in enumerate(files):
        before = {f"ddpm.diffusion.{name}" for name in ORDER[:number]}
        found = set(imports(ast.parse(file.read_text(encoding="utf-8")), set()))
        assert {name for name in found if name.startswith("ddpm.diffusion")} <= before, file.name


def test_files_and_functions_stay_short():
    long = []
    for file, tree in sources().items():
        if len(file.read_text(encoding="utf-8").splitlines()) >= FILE_LINES:
            long.append(str(file))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and code_lines(node) >= FUNCTION_LINES:
                long.append(f"{file}: {node.name}")
    assert long == []


def code_lines(function: ast.FunctionDef) -> int:
    """Without the docstring."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return (function.end_lineno or 0) - function.lineno + 1 - documented * ((first.end_lineno or 0) - first.lineno + 1)


def test_no_two_public_classes_and_no_two_files_share_a_name():
    classes = Counter(
        node.name
        for tree in sources().values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    files = Counter(file.stem for file in sources() if file.parent.name not in ("data", "cli"))
    assert [name for name, count in classes.items() if count > 1] == []
    assert {name for name, count in files.items() if count > 1} <= SHARED_NAMES


def test_importing_the_package_imports_nothing_of_it():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [name for node in at_import for name in imports(node, set())] == []


# ---- the checker finds what it is for -------------------------------------------------------------------------------

SOUND = {
    "__init__.py": "def __getattr__(name):\n    from ddpm import api\n    return getattr(api, name)\n",
    "base/units.py": "import torch\n",
    "data/idx.py": "from ddpm.data import png\nfrom ddpm.base.units import images_to_x\n",
    "data/png.py": "import ddpm.base.units\n",
    "api.py": "from ddpm.data.idx import read\n",
    "cli/main.py": "def run():\n    from ddpm import train\n",
}
BROKEN = {
    "upward": ({"base/units.py": "from ddpm.data.idx import read\n"}, "which lies above it"),
    "upward, in a function": ({"base/units.py": "def f():\n    import ddpm.api\n"}, "which lies above it"),
    "upward, by the front door": ({"data/png.py": "from ddpm import train\n"}, "which lies above it"),
    "cycle": ({"data/png.py": "from ddpm.data import idx\n"}, "is a cycle"),
    "unknown": ({"misc/things.py": ""}, "is in no layer"),
}


def build(package: Path, files: dict[str, str]) -> Path:
    for where, text in files.items():
        (package / where).parent.mkdir(parents=True, exist_ok=True)
        (package / where).write_text(text, encoding="utf-8")
    return package


def test_checker_accepts_a_sound_package(tmp_path: Path):
    assert problems(build(tmp_path, SOUND)) == []


@pytest.mark.parametrize("case", BROKEN)
def test_checker_reports_the_rule_that_is_broken(case: str, tmp_path: Path):
    files, sentence = BROKEN[case]
    assert any(sentence in line for line in problems(build(tmp_path, SOUND | files)))


# ---- the repository -------------------------------------------------------------------------------------------------


def listed_by_git(*which: str) -> list[Path]:
    if not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", *which]
    names = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True).stdout.decode().split("\0")
    return [PROJECT / name for name in names if name and (PROJECT / name).is_file()]


def test_no_file_in_the_repository_or_on_its_way_there_is_large():
    files = listed_by_git("--cached", "--others", "--exclude-standard")
    limits = {file: IMAGE_BYTES if file.suffix.lower() in IMAGES else FILE_BYTES for file in files}
    sizes = {file.relative_to(PROJECT).as_posix(): (file.stat().st_size, limit) for file, limit in limits.items()}
    assert [f"{name}: {size} bytes, at most {limit}" for name, (size, limit) in sizes.items() if size > limit] == []


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
