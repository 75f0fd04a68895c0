"""Measured variances are read back as they were stored, or refused (side files in general: test_sidecar)."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm.data.subsets import hashes
from ddpm.diffusion.denoiser import LEARNED, REVERSE_VARIANCES
from ddpm.diffusion.optimal_variance import Measured
from ddpm.errors import InputError, WrongModel
from ddpm.model.variances import SIDECAR, Variances, denoiser_for, read_variances, write_variances
from scorings import SHA, Of, pixels, stored_model


@pytest.fixture
def of(tmp_path: Path) -> Of:
    return Of(str(tmp_path))


def variances(**changes: Any) -> Variances:
    """With NaN, and numbers of every size."""
    nan = math.nan
    measured = Measured(
        squared_error=np.array([0.0, 1e-30, 1.23456789e-5, 0.25, 1 / 3]),
        decoder_log_variance=np.array([nan, -12.5, -7.123456789, nan, nan]),
        decoder_nats=np.array([nan, 0.0, 3.5e-7, nan, nan]),
        second_moment=0.1 + 0.2,
    )
    settings: dict[str, Any] = {
        "measured": measured,
        "data": "Ångström:train[0:3]",
        "data_fingerprint": "f" * 64,
        "image_hashes": ("0" * 16, "1" * 16),
        "seed": -3,
        "calls": 123,
    }
    return Variances(**settings | changes)


def test_what_is_written_is_read_back(of: Of):
    """Tables to nine digits, as they are stored; everything else exactly."""
    written = variances()
    assert write_variances(of, written) == Path(of.source) / "variance-averaged.json"
    read = read_variances(of)
    for name in ("squared_error", "decoder_log_variance", "decoder_nats"):
        table = getattr(read.measured, name)
        assert table.dtype == np.float64
        np.testing.assert_allclose(table, getattr(written.measured, name), rtol=5e-9)
    assert read.measured.second_moment == written.measured.second_moment
    for name in ("data", "data_fingerprint", "image_hashes", "seed", "calls"):
        assert getattr(read, name) == getattr(written, name)
    assert read.measured.source == str(SIDECAR.path(of))
    assert len(read.own_sha256) == 64


def test_the_file_is_json_with_the_keys_it_always_had(of: Of):
    table = json.loads(write_variances(of, variances()).read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert list(table) == [
        "format", "format_version", "weights", "weights_sha256", "data", "data_fingerprint", "seed", "calls",
        "second_moment", "squared_error", "decoder_log_variance", "decoder_nats", "image_hashes", "own_sha256",
    ]  # fmt: skip
    assert (table["format"], table["format_version"]) == ("ddpm variances", 1)
    assert (table["weights"], table["weights_sha256"]) == ("averaged", SHA)
    assert table["decoder_nats"] == [None, 0.0, 3.5e-7, None, None]
    assert table["squared_error"][4] == 0.333333333


def test_written_again_it_is_replaced(of: Of):
    write_variances(of, variances())
    write_variances(of, variances(seed=9))
    assert read_variances(of).seed == 9


@pytest.mark.parametrize(("weights", "option"), [("ema", ""), ("raw", " --weights raw")])
def test_what_was_never_measured_names_the_command(weights: str, option: str, of: Of):
    with pytest.raises(InputError) as raised:
        read_variances(replace(of, weights=weights))
    assert f"`ddpm tune variance {of.source}{option}`" in str(raised.value)
    assert raised.value.exit_code == 2


def test_the_side_file_of_another_checkpoint_is_noticed_by_its_model(tmp_path: Path):
    one, other = stored_model(tmp_path / "one"), stored_model(tmp_path / "other", seed=1)
    write_variances(one, variances())
    assert read_variances(one).seed == -3
    SIDECAR.path(one).rename(SIDECAR.path(other))
    for attempt in (lambda: read_variances(other), lambda: denoiser_for(other, "optimal")):
        with pytest.raises(WrongModel, match=r"variance-averaged\.json"):
            attempt()


@pytest.mark.parametrize("own", ["small", *LEARNED])
def test_a_denoiser_takes_every_variance_that_its_network_can_have(own: str, tmp_path: Path):
    model = stored_model(tmp_path / "model", process={"variance": own, "steps": 4}, objective={"loss": "bound"})
    write_variances(model, variances())
    for asked in (None, *REVERSE_VARIANCES):
        if asked in LEARNED and asked != own:
            with pytest.raises(InputError, match=f"{asked}'; choose one of {own}, "):
                denoiser_for(model, asked)
            continue
        found = denoiser_for(model, asked)
        assert found.variance == (asked or own)
        assert (found.measured is not None) == (asked == "optimal")


def test_hashes_tell_images_apart_and_not_where_they_are():
    images = pixels(50, (3, 4, 4))
    found = hashes(images)
    assert len(set(found)) == 50
    assert hashes(images[::-1]) == found[::-1]
    changed = images.copy()
    changed[7, 2, 3, 3] ^= 1
    assert [k for k in range(50) if hashes(changed)[k] != found[k]] == [7]
