"""The wheel works where no checkout is, the command line starts fast, and `make` treats an environment with care."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = PROJECT / "src"
DATA = sorted(
    file.relative_to(SOURCE).as_posix()
    for folder in ("recipes", "linear")
    for file in SOURCE.glob(f"ddpm/{folder}/*.*")
)
TABLE = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = TABLE["version"]
SCRIPTS = "Scripts" if os.name == "nt" else "bin"

# Nothing of the caller's environment may lead an installed ddpm back to the checkout.
CLEAN = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}


def output_of(command: list[str | Path], cwd: Path) -> str:
    """Run to the end in a folder outside the checkout; standard output, or a failure that shows both streams."""
    done = subprocess.run(command, cwd=cwd, env=CLEAN, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder outside the checkout."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, elsewhere: Path) -> Path:
    """A folder with the sdist made from the checkout, and the wheel made from that sdist."""
    folder = tmp_path_factory.mktemp("built")
    output_of([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, PROJECT], elsewhere)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path, elsewhere: Path) -> Path:
    """The scripts folder of a new environment that holds the wheel.

    Its dependencies are those of this environment, by a .pth file: such lines come last on sys.path, and the .pth
    files in the folders they name are not read, so the editable install of the checkout stays out of sight.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=os.name != "nt")
    python = home / SCRIPTS / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    output_of([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], elsewhere)
    site = Path(output_of([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], elsewhere).strip())
    here = [folder for folder in sys.path if Path(folder).name in {"site-packages", "dist-packages"}]
    (site / "dependencies.pth").write_text("\n".join(here) + "\n", encoding="utf-8")
    return home / SCRIPTS


# ---- the wheel ------------------------------------------------------------------------------------------------------


def test_wheel_holds_the_package_whole_and_nothing_else(wheel: Path):
    inside = set(zipfile.ZipFile(wheel).namelist())
    code = {file.relative_to(SOURCE).as_posix() for file in SOURCE.glob("ddpm/**/*.py")}
    assert {"ddpm/recipes/digits.toml", "ddpm/linear/config.json", "ddpm/linear/model.safetensors"} <= set(DATA)
    assert inside == code | set(DATA) | {"ddpm/py.typed"} | {name for name in inside if ".dist-info/" in name}
    assert {name.split("/")[0] for name in inside} == {"ddpm", f"ddpm-{VERSION}.dist-info"}
    assert f"ddpm-{VERSION}.dist-info/licenses/LICENSE" in inside


def test_sdist_holds_what_a_packager_needs(built: Path):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    wanted = {"LICENSE", "README.md", "pyproject.toml", "constraints.txt", "Makefile", "tests/test_packaging.py"}
    assert inside >= wanted | {f"src/{name}" for name in [*DATA, "ddpm/py.typed"]}
    assert not [name for name in inside if name.startswith((".venv", "runs", "dist", "build"))]


def test_installed_package_is_the_wheel_and_knows_its_version(installed: Path, elsewhere: Path):
    code = "import ddpm; print(ddpm.__file__); print(ddpm.__version__)"
    file, version = output_of([installed / "python", "-c", code], elsewhere).splitlines()
    assert Path(file).is_relative_to(installed.parent)
    assert version == VERSION


@pytest.mark.parametrize("words", ["--help", "train --help"])
def test_installed_command_explains_itself_outside_the_checkout(words: str, installed: Path, elsewhere: Path):
    assert "Usage" in output_of([installed / "ddpm", *words.split()], elsewhere)


def test_installed_command_finds_its_recipes_outside_the_checkout(installed: Path, elsewhere: Path):
    assert "param" in output_of([installed / "ddpm", "train", "digits", "--dry-run"], elsewhere).lower()
    assert list(elsewhere.iterdir()) == [], "a dry run, or one of the calls before it, left files behind"


# ---- starting fast --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_help_answers_within_a_second(installed: Path, elsewhere: Path):
    def seconds() -> float:
        start = time.perf_counter()
        output_of([installed / "ddpm", "--help"], elsewhere)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 1.0  # the best of five: the machine may be busy


HELP = """
import sys
from ddpm.cli import main
sys.argv = ["ddpm", "--help"]
try:
    code = main()
except SystemExit as end:
    code = end.code
assert not code, code
"""
LOADED = "\nimport sys\nprint('loaded:', *sorted({'torch', 'sklearn', 'matplotlib'} & set(sys.modules)))"


@pytest.mark.parametrize("code", [HELP, "import ddpm; ddpm.__version__"])
def test_nothing_heavy_is_imported_before_it_is_used(code: str, installed: Path, elsewhere: Path):
    assert output_of([installed / "python", "-c", code + LOADED], elsewhere).splitlines()[-1] == "loaded:"


def test_the_package_shows_the_verbs_of_its_api_and_no_module_is_in_their_way():
    """One list of names: an import of a module called like a verb would put the module in the verb's place."""
    import ddpm
    from ddpm import api

    assert dir(ddpm) == sorted([*api.__all__, "__version__"])
    assert ddpm.__all__ == api.__all__
    assert all(getattr(ddpm, name) is getattr(api, name) for name in api.__all__)
    assert not {file.stem for file in (SOURCE / "ddpm").iterdir()} & set(api.__all__)
    assert callable(importlib.import_module("ddpm.conversion").convert)
    assert callable(ddpm.convert)
    with pytest.raises(AttributeError, match="nonsense"):
        ddpm.nonsense  # noqa: B018


# ---- make -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what `make` reads, and no environment yet."""
    if shutil.which("make") is None:
        pytest.skip("this machine has no make")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(PROJECT / name, tmp_path)
    return tmp_path


def make(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run make as a person would; make's own variables (`make test` runs this test) do not reach it."""
    env = {key: value for key, value in CLEAN.items() if not key.startswith("MAKE") and key not in {"MFLAGS", "PYTHON"}}
    return subprocess.run(["make", *words], cwd=checkout, env=env, capture_output=True, text=True)


def script(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    file.chmod(0o755)
    return file


def environment(checkout: Path, torch: str | None = None, torch_code: str = "") -> Path:
    """A .venv as a user would have made it, with a torch of that version if one is named; returns site-packages."""
    venv.create(checkout / ".venv", with_pip=False, symlinks=True)
    site = next(checkout.glob(".venv/lib/python*/site-packages"))
    (site / "pip").mkdir()
    (site / "pip" / "__init__.py").touch()
    (site / "pip" / "__main__.py").write_text("import sys; print('pip', *sys.argv[1:])\n", encoding="utf-8")
    if torch:
        (site / "torch").mkdir()
        (site / "torch" / "__init__.py").write_text(torch_code, encoding="utf-8")
        (site / f"torch-{torch}.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {torch}\n"
        (site / f"torch-{torch}.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    return site


def torch_constraints(checkout: Path) -> list[str]:
    lines = (checkout / ".venv" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("torch==")]


TORCH = [line for line in (PROJECT / "constraints.txt").read_text("utf-8").splitlines() if line.startswith("torch==")]


def test_make_alone_prints_its_targets(checkout: Path):
    lines = make(checkout).stdout.splitlines()
    assert {line.split()[1] for line in lines} >= {"demo", "test", "test-slow", "check", "bench", "clean"}
    assert all(line.startswith("make ") and len(line.split()) > 3 for line in lines)
    assert not (checkout / ".venv").exists()


def test_make_installs_under_the_constraints_once_and_again_when_they_change(checkout: Path):
    environment(checkout)
    first = make(checkout, ".venv/.ready")
    assert first.returncode == 0, first.stderr
    assert "-c .venv/constraints.txt -e .[dev]" in first.stdout
    pinned = (PROJECT / "constraints.txt").read_text(encoding="utf-8")
    assert (checkout / ".venv" / "constraints.txt").read_text(encoding="utf-8") == pinned
    assert "pip" not in make(checkout, ".venv/.ready").stdout
    later = time.time() + 60
    os.utime(checkout / "constraints.txt", (later, later))
    assert "pip" in make(checkout, ".venv/.ready").stdout


@pytest.mark.parametrize("version", ["2.11.0", "2.12.1+mine", "2.14.0.dev20260101+cu130", "3.0.0"])
def test_make_keeps_a_torch_that_is_already_installed(version: str, checkout: Path):
    environment(checkout, torch=version)
    done = make(checkout, ".venv/.ready")
    assert done.returncode == 0, done.stderr
    assert torch_constraints(checkout) == [f"torch=={version}"]
    assert f"keeping torch {version}" in done.stderr


def test_make_replaces_a_torch_that_is_too_old_and_says_so(checkout: Path):
    environment(checkout, torch="2.9.1")
    assert "older than 2.11" in make(checkout, ".venv/.ready").stderr
    assert torch_constraints(checkout) == TORCH


def test_make_stops_at_a_torch_that_does_not_import(checkout: Path):
    environment(checkout, torch="2.13.0", torch_code="raise OSError('libfoo.so is missing')")
    done = make(checkout, ".venv/.ready")
    assert done.returncode != 0
    assert "libfoo.so is missing" in done.stderr
    assert "pip" not in done.stdout
    assert not (checkout / ".venv" / ".ready").exists()


def test_make_refuses_an_old_python_in_one_sentence(checkout: Path):
    old = script(checkout / "old", '[ "$1" = --version ] && echo Python 3.9.1 && exit 0; [ -z "$2" ]')
    done = make(checkout, ".venv/.ready", f"PYTHON={old}")
    assert done.returncode != 0
    assert "is Python 3.9.1: ddpm needs Python 3.11 or newer" in done.stderr
    assert not (checkout / ".venv").exists()


def test_make_says_what_to_do_where_no_python_is(checkout: Path):
    done = make(checkout, ".venv/.ready", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "install Python 3.11 or newer" in done.stderr
    assert not (checkout / ".venv").exists()


def broken_link(checkout: Path) -> None:
    environment(checkout)
    (checkout / ".venv" / "bin" / "python").unlink()
    (checkout / ".venv" / "bin" / "python").symlink_to(checkout / "gone")


def old_environment(checkout: Path) -> None:
    script(checkout / ".venv" / "bin" / "python", '[ "$1" = --version ] && echo Python 3.9.1 && exit 0; [ -z "$2" ]')


def without_pip(checkout: Path) -> None:
    shutil.rmtree(environment(checkout) / "pip")


def moved(checkout: Path) -> None:
    environment(checkout)
    (checkout / ".venv" / ".ready").write_text("/another/place\n", encoding="utf-8")


@pytest.mark.parametrize("broken", [broken_link, old_environment, without_pip, moved])
def test_make_says_what_to_do_about_a_broken_environment(broken, checkout: Path):
    broken(checkout)
    done = make(checkout, "test")
    assert done.returncode != 0
    assert "'make clean'" in done.stderr
    assert "pip" not in done.stdout


def test_make_clean_leaves_runs_alone(checkout: Path):
    environment(checkout)
    kept = [checkout / "runs" / "mine" / "__pycache__", checkout / "src", checkout / "Makefile"]
    gone = [checkout / name for name in ("src/__pycache__", "build", "dist", ".mypy_cache", ".pytest_cache")]
    for folder in [*kept[:2], *gone]:
        folder.mkdir(parents=True, exist_ok=True)
    assert make(checkout, "clean").returncode == 0
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in [*gone, checkout / ".venv"])


def test_every_package_that_is_imported_is_a_declared_dependency() -> None:
    """The wheel test above borrows this environment's packages; an empty one would find a missing name."""
    # What an extra brings is imported only where it is found: evaluate works without it.
    lines = [*TABLE["dependencies"], *TABLE["optional-dependencies"]["codecs"]]
    declared = {re.split(r"[<>=\[ ]", line)[0].replace("-", "_").lower() for line in lines}
    names = {"PIL": "pillow", "sklearn": "scikit_learn"}
    imported = set()
    for file in (PROJECT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            imported |= {module.split(".")[0] for module in modules}
    outside = {names.get(name, name) for name in imported - sys.stdlib_module_names - {"ddpm"}}
    assert outside <= declared
    assert declared <= outside
