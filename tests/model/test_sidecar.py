"""Side files are sure of their own content and of whose weights they are about; those of earlier versions are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ddpm.codec import codec_data
from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.model import sidecar, timesteps, variances
from ddpm.model.checkpoint import MODEL_FILE, PACKAGED, read_config
from ddpm.model.sidecar import Sidecar
from scorings import SHA, Of, edited

SPOONS = Sidecar("spoons", "ddpm spoons", "cutlery", version=3)
KINDS = {kind.stem: kind for kind in (timesteps.SIDECAR, variances.SIDECAR, codec_data.SIDECAR)}
TABLE = {"spoons": [1, 0.1 + 0.2, 1e300, None, "Löffel"], "drawer": {"left": True}}
EVERY_WEIGHTS = pytest.mark.parametrize(
    ("weights", "stored"), [("ema", "averaged"), ("raw", "raw"), ("ema-0.05", "averaged-0.05")]
)
PUBLISHED = Path(__file__).resolve().parents[2] / "models" / "fashion-mnist"


@pytest.fixture
def of(tmp_path: Path) -> Of:
    return Of(str(tmp_path))


# ---- written and read back ------------------------------------------------------------------------------------------


@EVERY_WEIGHTS
def test_a_side_file_gives_back_its_table_and_what_it_is(weights: str, stored: str, tmp_path: Path):
    of = Of(str(tmp_path / "new"), weights)
    Path(of.source).mkdir()
    path = SPOONS.write(of, TABLE)
    assert path == SPOONS.path(of) == tmp_path / "new" / f"spoons-{stored}.json"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    found = SPOONS.read(of)
    assert found is not None
    assert found.items() >= TABLE.items()
    assert (found["format"], found["format_version"]) == ("ddpm spoons", 3)
    assert (found["weights"], found["weights_sha256"]) == (stored, SHA)
    assert found.keys() - TABLE.keys() == {"format", "format_version", "weights", "weights_sha256", "own_sha256"}
    assert path.read_bytes().endswith(b"}\n")


@EVERY_WEIGHTS
def test_kinds_of_weights_and_their_names_on_disk_lead_to_each_other(weights: str, stored: str):
    assert (sidecar.stored(weights), sidecar.kind_of(stored)) == (stored, weights)
    assert sidecar.of_length(0.05) == "ema-0.05"


def test_the_kinds_that_there_is_a_file_for_are_listed(of: Of):
    for weights in ("raw", "ema-0.25", "ema", "ema-0.05"):
        SPOONS.write(Of(of.source, weights), TABLE)
    assert SPOONS.kinds(Path(of.source)) == ["ema", "ema-0.05", "ema-0.25", "raw"]


@pytest.mark.parametrize(("of_one", "to"), [("raw", "ema"), ("ema", "ema-0.05"), ("ema-0.05", "raw")])
def test_a_file_about_another_kind_of_weights_of_the_same_checkpoint_is_refused(of_one: str, to: str, of: Of):
    """They share a file, and so its hash."""
    other = Of(of.source, to)
    SPOONS.write(Of(of.source, of_one), TABLE).rename(SPOONS.path(other))
    with pytest.raises(WrongModel, match="was measured on other weights"):
        SPOONS.read(other)


def test_where_nothing_was_stored_there_is_nothing(of: Of):
    assert SPOONS.read(of) is None
    assert SPOONS.read(Of(of.source + "/nowhere")) is None
    SPOONS.write(Of(of.source, "raw"), TABLE)
    assert SPOONS.read(of) is None


def test_the_order_of_its_keys_and_its_spaces_mean_nothing(of: Of):
    table = json.loads(SPOONS.write(of, TABLE).read_text(encoding="utf-8"))
    SPOONS.path(of).write_text(json.dumps(dict(reversed(table.items())), indent=4), encoding="utf-8")
    assert SPOONS.read(of) == table


def test_an_older_format_is_read(of: Of):
    Sidecar("spoons", "ddpm spoons", "cutlery", version=2).write(of, TABLE)
    found = SPOONS.read(of)
    assert found is not None
    assert found["format_version"] == 2


# ---- what is refused ------------------------------------------------------------------------------------------------


REFUSALS: dict[str, tuple[type[Exception], int, Sidecar, str]] = {
    "other weights": (WrongModel, 3, SPOONS, "b" * 64),
    "another format": (DamagedFile, 4, Sidecar("spoons", "ddpm forks", "cutlery", version=3), SHA),
    "a newer format": (InputError, 2, Sidecar("spoons", "ddpm spoons", "cutlery", version=2), SHA),
}


def test_a_checkpoint_that_was_removed_meanwhile_is_not_made_again_by_its_side_file(tmp_path: Path):
    gone = Of(str(tmp_path / "0000000016"))
    for act in (lambda: SPOONS.write(gone, TABLE), lambda: SPOONS.lock(gone)):
        with pytest.raises(InputError, match="0000000016' was removed"):
            act()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", REFUSALS)
@EVERY_WEIGHTS
def test_a_side_file_that_cannot_be_used_is_refused_by_name_with_what_to_do(
    case: str, weights: str, stored: str, tmp_path: Path
):
    kind, code, reader, sha = REFUSALS[case]
    path = SPOONS.write(Of(str(tmp_path), weights), TABLE)
    with pytest.raises(kind) as raised:
        reader.read(Of(str(tmp_path), weights, sha))
    said = str(raised.value)
    assert type(raised.value) is kind
    assert raised.value.exit_code == code
    assert f"'{path}'" in said
    option = "" if weights == "ema" else f" --weights {weights}"
    assert ("newer ddpm" if case == "a newer format" else f"`ddpm tune cutlery {tmp_path}{option}`") in said
    assert said.endswith(".")
    assert "\n" not in said


def test_a_newer_format_is_refused_without_being_read(of: Of):
    path = SPOONS.write(of, TABLE)
    edited(path, lambda table: table.update(format_version=4, weights_sha256="something new"))
    with pytest.raises(InputError, match="newer ddpm"):
        SPOONS.read(of)


@pytest.mark.parametrize("text", ["", "[]", "null", "3", "{}", '{"format": "ddpm forks"}', "\xff"])
def test_another_file_under_its_name_is_refused(text: str, of: Of):
    SPOONS.path(of).write_text(text, encoding="latin-1")
    with pytest.raises(DamagedFile, match=r"spoons-averaged\.json"):
        SPOONS.read(of)


def test_a_folder_under_its_name_is_refused(of: Of):
    SPOONS.path(of).mkdir()
    with pytest.raises(InputError, match=r"spoons-averaged\.json.*a file belongs there"):
        SPOONS.read(of)


def test_a_file_cut_short_anywhere_is_damaged(of: Of):
    path = SPOONS.write(of, TABLE)
    content = path.read_bytes()
    for length in range(len(content) - 1):  # without its last byte, a line's end, it is whole
        path.write_bytes(content[:length])
        with pytest.raises(DamagedFile, match=r"spoons-averaged\.json"):
            SPOONS.read(of)


def test_a_flipped_bit_anywhere_is_damage_or_changes_nothing(of: Of):
    """1e+300 and 1E+300 are one number; a version that became 7 or 11 may be called newer. Two bits of every byte: one
    that goes round, and the one between small and capital letters."""
    path = SPOONS.write(of, TABLE)
    content, whole, wrong = path.read_bytes(), SPOONS.read(of), []
    version = content.index(b'"format_version": 3') + len(b'"format_version": ')
    for place in range(len(content)):
        for bit in {5, place % 8}:
            path.write_bytes(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :])
            try:
                wrong += [] if SPOONS.read(of) == whole else [(place, bit)]
            except DamagedFile as error:
                wrong += [] if "spoons-averaged.json" in str(error) else [(place, bit)]
            except InputError:
                wrong += [] if place == version else [(place, bit)]
    assert not wrong, (len(wrong), sorted({place for place, _ in wrong}))


# ---- the three kinds ------------------------------------------------------------------------------------------------


def test_each_kind_has_its_file_and_its_command():
    of = Of("run")
    assert {kind.path(of).name for kind in KINDS.values()} == {
        "levels-averaged.json",
        "variance-averaged.json",
        "codec-averaged.json",
    }
    assert {kind.made_by(of) for kind in KINDS.values()} == {
        "`ddpm tune timesteps run`",
        "`ddpm tune variance run`",
        "`ddpm tune codec run`",
    }


def of_checkpoint(folder: Path) -> Of:
    """Without its weights being read."""
    return Of(str(folder), "ema", read_config(folder).sha256[MODEL_FILE])


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published model is not here")
def test_the_published_side_files_are_read_and_written_again_with_the_same_content(tmp_path: Path):
    of = of_checkpoint(PUBLISHED)
    for stem, kind in KINDS.items():
        text = kind.path(of).read_text(encoding="utf-8")
        table = kind.read(of)
        assert table == json.loads(text)
        content = {key: value for key, value in table.items() if key != "own_sha256"}
        again = kind.write(Of(str(tmp_path), "ema", of.weights_sha256), content)
        assert json.loads(again.read_text(encoding="utf-8")) == table, stem
    found = variances.read_variances(of)
    assert len(found.measured.squared_error) == 1001
    variances.write_variances(Of(str(tmp_path), "ema", of.weights_sha256), found)
    assert (tmp_path / "variance-averaged.json").read_bytes() == variances.SIDECAR.path(of).read_bytes()
    assert timesteps.tuned_for(of, "dpm++sde", 8) is not None
    codec = codec_data.read_codec_data(of)
    assert codec is not None
    codec_data.write_codec_data(Of(str(tmp_path), "ema", of.weights_sha256), codec)
    assert (tmp_path / "codec-averaged.json").read_bytes() == codec_data.SIDECAR.path(of).read_bytes()


def test_the_codec_data_of_the_model_that_comes_with_the_package_are_read():
    table = codec_data.SIDECAR.read(of_checkpoint(PACKAGED))
    assert table is not None
    assert re.fullmatch("[0-9a-f]{64}", table["own_sha256"])
    assert codec_data.read_codec_data(of_checkpoint(PACKAGED)) is not None
