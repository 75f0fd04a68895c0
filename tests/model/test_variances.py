"""A side file is read back as it was written, or refused with its name and the command that makes a new one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm.base.files import signed
from ddpm.data.subsets import hashes
from ddpm.diffusion.optimal_variance import Measured
from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.model.variances import FORMAT_VERSION, Variances, read_variances, variance_file, write_variances
from scorings import pixels, stored_model

SHA = "a" * 64


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
        "weights": "averaged",
        "weights_sha256": SHA,
        "data": "Ångström:train[0:3]",
        "data_fingerprint": "f" * 64,
        "image_hashes": ("0" * 16, "1" * 16),
        "seed": -3,
        "calls": 123,
    }
    return Variances(**settings | changes)


def edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a side file's table and sign it again."""
    file = variance_file(folder, "averaged")
    table = json.loads(file.read_text(encoding="utf-8"))
    del table["own_sha256"]
    change(table)
    file.write_text(json.dumps(signed(table)), encoding="utf-8")


def test_what_is_written_is_read_back(tmp_path: Path):
    """Tables to nine digits, as they are stored; everything else exactly."""
    written = variances()
    assert write_variances(tmp_path, written) == tmp_path / "variance-averaged.json"
    assert [file.name for file in tmp_path.iterdir()] == ["variance-averaged.json"]
    read = read_variances(tmp_path, "averaged", SHA)
    for name in ("squared_error", "decoder_log_variance", "decoder_nats"):
        table = getattr(read.measured, name)
        assert table.dtype == np.float64
        np.testing.assert_allclose(table, getattr(written.measured, name), rtol=5e-9)
    assert read.measured.second_moment == written.measured.second_moment
    for name in ("weights", "weights_sha256", "data", "data_fingerprint", "image_hashes", "seed", "calls"):
        assert getattr(read, name) == getattr(written, name)
    assert read.measured.source == str(variance_file(tmp_path, "averaged"))


def test_written_again_it_is_replaced(tmp_path: Path):
    write_variances(tmp_path, variances())
    write_variances(tmp_path, variances(seed=9))
    assert read_variances(tmp_path, "averaged", SHA).seed == 9


@pytest.mark.parametrize(("weights", "option"), [("averaged", ""), ("raw", " --weights raw")])
def test_what_was_never_measured_names_the_command(weights: str, option: str, tmp_path: Path):
    with pytest.raises(InputError) as raised:
        read_variances(tmp_path, weights, SHA)
    assert f"`ddpm tune {tmp_path} --variance{option}`" in str(raised.value)
    assert raised.value.exit_code == 2


def test_other_weights_are_another_model(tmp_path: Path):
    write_variances(tmp_path, variances())
    with pytest.raises(WrongModel, match=r"variance-averaged\.json' was measured on other weights") as raised:
        read_variances(tmp_path, "averaged", "b" * 64)
    assert raised.value.exit_code == 3


def test_the_side_file_of_another_checkpoint_is_noticed_by_its_model(tmp_path: Path):
    one, other = stored_model(tmp_path / "one"), stored_model(tmp_path / "other", seed=1)
    write_variances(Path(one.source), variances(weights_sha256=one.weights_sha256))
    assert one.read_tuned().weights_sha256 == one.weights_sha256
    variance_file(Path(one.source), "averaged").rename(variance_file(Path(other.source), "averaged"))
    with pytest.raises(WrongModel):
        other.read_tuned()
    with pytest.raises(WrongModel):
        other.denoiser_with("optimal")


def test_a_file_cut_short_anywhere_is_damaged(tmp_path: Path):
    write_variances(tmp_path, variances())
    file = variance_file(tmp_path, "averaged")
    content = file.read_bytes()
    for length in range(len(content) - 1):  # without its last byte, a line's end, it is whole
        file.write_bytes(content[:length])
        with pytest.raises(DamagedFile, match=r"variance-averaged\.json") as raised:
            read_variances(tmp_path, "averaged", SHA)
        assert raised.value.exit_code == 4


def test_a_flipped_bit_anywhere_is_damage_or_changes_nothing(tmp_path: Path):
    """1e-05 and 1E-05 are one number; a version that became 3, 5 or 9 may be called newer."""
    write_variances(tmp_path, variances())
    file = variance_file(tmp_path, "averaged")
    content = file.read_bytes()
    version = content.index(b'"format_version": 1') + len(b'"format_version": ')
    whole, wrong = repr(read_variances(tmp_path, "averaged", SHA)), []
    for place in range(len(content)):
        for bit in range(8):
            file.write_bytes(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :])
            try:
                wrong += [] if repr(read_variances(tmp_path, "averaged", SHA)) == whole else [(place, bit)]
            except DamagedFile as error:
                wrong += [] if "variance-averaged.json" in str(error) else [(place, bit)]
            except InputError:
                wrong += [] if place == version else [(place, bit)]
    assert not wrong, (len(wrong), sorted({place for place, _ in wrong}))


@pytest.mark.parametrize("text", ["", "[]", "null", "3", "{}", '{"format": "ddpm checkpoint"}', "\xff"])
def test_another_file_under_its_name_is_refused(text: str, tmp_path: Path):
    variance_file(tmp_path, "averaged").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedFile, match=r"variance-averaged\.json"):
        read_variances(tmp_path, "averaged", SHA)


def test_a_newer_format_is_refused_without_being_read(tmp_path: Path):
    write_variances(tmp_path, variances())
    edited(tmp_path, lambda table: table.update(format_version=FORMAT_VERSION + 1, squared_error="something new"))
    with pytest.raises(InputError, match=r"a newer ddpm would fit\.$"):
        read_variances(tmp_path, "averaged", SHA)


def test_hashes_tell_images_apart_and_not_where_they_are():
    images = pixels(50, (3, 4, 4))
    found = hashes(images)
    assert len(set(found)) == 50
    assert hashes(images[::-1]) == found[::-1]
    changed = images.copy()
    changed[7, 2, 3, 3] ^= 1
    assert [k for k in range(50) if hashes(changed)[k] != found[k]] == [7]
