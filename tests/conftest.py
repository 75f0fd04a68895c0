"""What all tests share: one thread, no window, reproducible hypothesis, and where the real data lies."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports torch; processes that tests start inherit both.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

settings.register_profile("ddpm", deadline=None, derandomize=True)
settings.load_profile("ddpm")

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    """Undo what another test did to the number of threads; costs nothing where torch is not imported."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets (DDPM_TEST_DATA; default: shared/data beside the project).

    It skips only where nobody named a folder and the default is not there: a file missing inside it is a failure.
    """
    named = os.environ.get("DDPM_TEST_DATA")
    root = Path(named or PROJECT.parent / "shared" / "data")
    assert root.is_dir() or not named, f"DDPM_TEST_DATA names {root}, which is no folder"
    if not root.is_dir():
        pytest.skip(f"no real data: the folder {root} does not exist (DDPM_TEST_DATA names another)")
    return root


@pytest.fixture(scope="module")
def quick_runs() -> Iterator[None]:
    """Training without its curve, and with grids of two steps: both take longer than runs this short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddpm.training.run_folder.RunFolder.plot_loss", lambda folder, lines: None)
        patch.setattr("ddpm.training.shown.GRID_STEPS", 2)
        yield
