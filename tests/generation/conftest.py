"""A fake model draws by itself; a real one is made where a test wants it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drawings import Fake

from ddpm.generation import resumable
from ddpm.model.model import Model
from scorings import stored_model


@pytest.fixture(autouse=True)
def fakes_draw_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(name: str, plain: Callable[..., Any], model: Any, *args: Any, **options: Any) -> Any:
        return getattr(model, name)(*args, **options) if isinstance(model, Fake) else plain(model, *args, **options)

    for name in ("draw_batches", "labels_for", "protocol"):
        monkeypatch.setattr(resumable, name, functools.partial(of, name, getattr(resumable, name)))


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return stored_model(tmp_path / "model")
