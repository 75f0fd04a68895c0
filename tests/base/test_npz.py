"""No damage to an archive of arrays gets by, and no size is believed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ddpm.base.npz import BadArchive, array_names, map_array, read_arrays, read_own_arrays
from ddpm.errors import DamagedFile, InputError

ARRAYS = {
    "levels": np.arange(60, dtype=np.uint8).reshape(3, 4, 5),
    "turned": np.asfortranarray(np.random.default_rng(0).standard_normal((7, 3))),
    "text": np.array("ångström"),
    "nothing": np.zeros((0, 4), np.float32),
}


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_come_back_in_the_order_asked_for(write, tmp_path: Path):
    write(tmp_path / "set.npz", **ARRAYS)
    assert array_names(tmp_path / "set.npz") == list(ARRAYS)
    names = list(reversed(ARRAYS))
    for name, found in zip(names, read_arrays(tmp_path / "set.npz", *names), strict=True):
        np.testing.assert_array_equal(found, ARRAYS[name])
        assert found.dtype == ARRAYS[name].dtype
    assert read_arrays(str(tmp_path / "set.npz")) == []


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_no_damage_gets_by(write, tmp_path: Path):
    """A cut anywhere, and every second byte of the first member and beyond set to something else."""
    write(tmp_path / "set.npz", levels=ARRAYS["levels"], turned=ARRAYS["turned"])
    whole, noticed = (tmp_path / "set.npz").read_bytes(), 0
    damaged = [whole[:length] for length in range(0, len(whole), 29)]
    for place in range(0, 260, 2):
        damaged += [whole[:place] + bytes([value]) + whole[place + 1 :] for value in (39, whole[place] ^ 1)]
    for data in damaged:
        (tmp_path / "damaged.npz").write_bytes(data)
        try:
            found = read_arrays(tmp_path / "damaged.npz", "levels", "turned")
        except BadArchive:
            noticed += 1
            with pytest.raises(DamagedFile, match=r"damaged\.npz"):
                read_own_arrays(tmp_path / "damaged.npz", "levels", "turned")
        else:
            assert found[0].tobytes() + found[1].tobytes() == ARRAYS["levels"].tobytes() + ARRAYS["turned"].tobytes()
    assert noticed > 0.6 * len(damaged)


HEADERS = [
    "{'descr': '|u1', 'fortran_order': False, 'shape': (3,",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-3,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (10**9,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999,), }",
    "{'descr': 7, 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '|u1', b'fortran_order': False, 'shape': (3,), }",
    "  01",
]


@pytest.mark.parametrize("header", HEADERS)
def test_a_sound_archive_of_senseless_arrays_is_damaged_too(header: str, tmp_path: Path):
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(3)
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("levels.npy", data)
    with pytest.raises(BadArchive):
        read_arrays(tmp_path / "set.npz", "levels")


def test_nothing_is_unpickled_and_nothing_else_is_an_array(tmp_path: Path):
    class Loud:
        def __reduce__(self) -> tuple[object, ...]:
            return (pytest.fail, ("it was unpickled",))

    np.savez(tmp_path / "set.npz", objects=np.array([Loud()], object))
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.writestr("raw", pickle.dumps([1]))
        archive.writestr("pickled.npy", pickle.dumps(Loud()))
    assert array_names(tmp_path / "set.npz") == ["objects", "pickled"]
    for name in ("objects", "raw", "pickled", "missing"):
        with pytest.raises(InputError if name == "objects" else BadArchive):
            read_arrays(tmp_path / "set.npz", name)


def npy(header: str, body: bytes = b"", *, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header.encode() + body


def test_a_npy_file_is_mapped(tmp_path: Path):
    for order in "CF":
        array = np.asarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4), order=order)
        np.save(tmp_path / "a.npy", array)
        np.testing.assert_array_equal(map_array(tmp_path / "a.npy"), array)
    np.save(tmp_path / "a.npy", np.zeros((0, 3)))
    assert map_array(tmp_path / "a.npy").shape == (0, 3)


def test_every_flipped_bit_of_a_npy_header_is_a_bad_archive_or_the_same_size(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    whole = (tmp_path / "a.npy").read_bytes()
    for place in range(128):
        for bit in range(8):
            (tmp_path / "b.npy").write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                found = map_array(tmp_path / "b.npy")
            except (BadArchive, InputError):
                continue
            assert found.nbytes == 24


@pytest.mark.parametrize("header", HEADERS)
def test_a_npy_file_of_a_senseless_array_is_a_bad_archive(header: str, tmp_path: Path):
    (tmp_path / "a.npy").write_bytes(npy(header, bytes(3)))
    with pytest.raises(BadArchive):
        map_array(tmp_path / "a.npy")


def test_a_header_of_any_length_takes_no_memory(tmp_path: Path):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b"{")
    with pytest.raises(BadArchive):
        map_array(tmp_path / "a.npy")


def test_what_unpacks_to_far_more_than_it_is_is_refused_by_its_header(tmp_path: Path, monkeypatch):
    np.savez_compressed(tmp_path / "set.npz", images=np.zeros(10**6, np.uint8))
    monkeypatch.setattr("ddpm.base.npz.MOST_UNPACKED", 10**5)
    with pytest.raises(InputError, match=r"set\.npz' unpacks from .* to 1,000,128, .*DDPM_MAX_UNPACKED to 1000128"):
        read_arrays(tmp_path / "set.npz", "images")
    monkeypatch.setenv("DDPM_MAX_UNPACKED", "1000128")
    assert read_arrays(tmp_path / "set.npz", "images")[0].shape == (10**6,)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path):
    with pytest.raises(InputError, match=r"missing\.npz' could not be read: No such file or directory; check the name"):
        array_names(tmp_path / "missing.npz")
    (tmp_path / "folder.npz").mkdir()
    for read in (array_names, map_array):
        with pytest.raises(InputError, match="a file belongs there"):
            read(tmp_path / "folder.npz")
