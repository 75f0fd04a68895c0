"""Numbers on the command line that no machine holds are refused in a sentence, before anything is allocated."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ddpm.cli import app
from ddpm.errors import InputError
from scorings import stored_model

resource = pytest.importorskip("resource")

DIGITS = "9" * 5000
COMMANDS = [
    "train digits --out RUN --set batch_size=1000000000",
    "train digits --out RUN --set network.channels=60000",
    "train digits --out RUN --set network.blocks=1_000_000_000",
    "train digits --out RUN --set process.steps=1e9",
    "train digits --out RUN --set process.steps=1000000000",
    "train digits --out RUN --set learning_rate=1e38",
    f"train digits --out RUN --set train_images={DIGITS}",
    f"train digits --out RUN --set seed={DIGITS}",
    "train digits --out RUN --size 1000000000x1000000000",
    f"train digits --out RUN --size {DIGITS}",
    "train digits --dry-run --set batch_size=65536 --set network.channels=1024",
    "sample MODEL --out grid.png --seeds 0-999999999999",
    f"sample MODEL --out grid.png --seeds {DIGITS}",
    "sample MODEL --out grid.png --steps 1000000000",
    "sample MODEL --out grid.png --batch-size 1000000000000",
    f"sample MODEL --out grid.png --batch-size {DIGITS}",
    "sample MODEL --out grid.png --guidance 1e400",
    "sample MODEL --out grid.png --eta 1e308 --steps 4",
    "compress linear image.png --out OUT --rate 1e308",
    "compress linear image.png --out OUT --rate nan",
    "compress linear image.png --out OUT --rate inf",
    f"compress linear image.png --out OUT --bytes {DIGITS}",
    "compress linear image.png --out OUT --bytes 99999999999999999999",
    "compress linear image.png --out OUT --batch-size 1000000000",
    "evaluate likelihood MODEL --data digits:test --calls 1000000000000",
    "evaluate likelihood MODEL --data digits:test --levels 1000000000",
    "evaluate likelihood MODEL --data digits:test --ode --solver-steps 1000000000",
    "evaluate likelihood MODEL --data digits:test --full --shard 1/1000000000",
    f"evaluate likelihood MODEL --data digits:test --seed {DIGITS}",
    "evaluate likelihood MODEL --data digits:test --seed 18446744073709551616",
    "evaluate fid MODEL --data digits:test --features pixels --seeds 0-99999999",
    "evaluate memorisation MODEL --data digits:test --seeds 0-99999999",
    "evaluate codec linear --data digits:test --limit 99999999999999999999",
    "tune ema MODEL --steps 12 --samples 1000000000000",
    "tune ema MODEL --steps 1000000000",
    "tune variance MODEL --calls 1000000000000",
    "tune timesteps MODEL --steps 4 --samples 1000000000000",
    "tune timesteps MODEL --steps 4 --trials 1000000000000",
    "tune timesteps MODEL --steps 1000000000",
    "tune codec MODEL --fit-steps 1000000000000",
    f"convert nowhere OUT --size {DIGITS}",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    stored_model(folder / "MODEL", data="digits:train", image={"height": 8, "width": 8})
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "image.png")
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_numbers_beyond_all_are_refused_in_a_sentence(command: str, place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = CliRunner().invoke(app, shlex.split(command))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if isinstance(result.exception, SystemExit):  # Typer's own sentence: the text is no number at all
        assert result.exit_code == 2
        assert "Invalid value" in result.output
    else:
        assert isinstance(result.exception, InputError), repr(result.exception)
        assert len(str(result.exception)) < 1000
    assert grown < 300_000, "kilobytes"
    assert sorted(entry.name for entry in place.iterdir()) == ["MODEL", "image.png"]
