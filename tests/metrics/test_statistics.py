"""Moments merge without losing digits; statistics come back from disk bit for bit, or not at all."""

from __future__ import annotations

import pickle
import tracemalloc
import zipfile
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpm.errors import DamagedFile, DdpmError, InputError
from ddpm.metrics.frechet import frechet_distance
from ddpm.metrics.statistics import (
    Moments,
    Statistics,
    check_statistics_file,
    is_statistics,
    load_statistics,
    moments,
    save_statistics,
    statistics_of,
)

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((40, 5)) @ RNG.standard_normal((5, 5)) + 1
KNOWN = statistics_of(FEATURES, extractor="ab" * 32, fingerprint="cd" * 32, source="digits:test[:40]")


# ---- moments --------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.sampled_from([0.0, 1.0, 1e6]))
def test_moments_of_any_split_are_those_of_numpy(sizes: list[int], offset: float):
    """A feature near 1e6 is itself rounded to 1e-10, hence 1e-9; uncentred sums would be 1e-4 off."""
    count = sum(sizes) + 2
    rows = np.random.default_rng(count).standard_normal((count, 3)) * [1, 10, 0.1] + offset
    parts = np.split(rows, np.cumsum(sizes))
    found = reduce(Moments.__add__, map(moments, parts))
    assert found.count == count
    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-14, atol=1e-14)
    expected = np.cov(rows - offset, rowvar=False)
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_array_equal(found.covariance, found.covariance.T)


def test_taking_a_part_away_undoes_adding_it():
    whole, part = moments(FEATURES), moments(FEATURES[7:19])
    rest = moments(np.delete(FEATURES, range(7, 19), axis=0))
    found = whole.without(part)
    assert found.count == 28
    np.testing.assert_allclose(found.mean, rest.mean, rtol=1e-13)
    np.testing.assert_allclose(found.scatter, rest.scatter, rtol=1e-12, atol=1e-12)


def test_covariance_is_divided_by_one_less_than_the_count():
    found = statistics_of(np.array([[1.0, 0], [3, 4]], np.float32))
    assert (found.count, found.dimensions) == (2, 2)
    np.testing.assert_array_equal(found.mean, [2, 2])
    np.testing.assert_array_equal(found.covariance, [[2, 4], [4, 8]])
    assert found.covariance.dtype == found.mean.dtype == np.float64
    assert KNOWN.covariance == pytest.approx(np.cov(FEATURES, rowvar=False), rel=1e-13)


@pytest.mark.parametrize("bad", [FEATURES[:1], FEATURES[:0], FEATURES[0], FEATURES * np.nan])
def test_features_without_a_covariance_are_refused(bad: np.ndarray):
    with pytest.raises(InputError):
        statistics_of(bad)


def test_only_known_extractors_that_differ_do_not_compare():
    KNOWN.check_features(5, "ab" * 32)
    KNOWN.check_features(5)
    statistics_of(FEATURES).check_features(5, "ab" * 32)
    with pytest.raises(InputError, match=r"'digits:test\[:40\]' .*abababababab, .*pixels"):
        KNOWN.check_features(5, "pixels")
    with pytest.raises(InputError, match="6 dimensions"):
        KNOWN.check_features(6)


# ---- on disk --------------------------------------------------------------------------------------------------------


def as_tuple(statistics: Statistics) -> tuple[object, ...]:
    notes = (statistics.count, statistics.extractor, statistics.fingerprint, statistics.source)
    return (*notes, statistics.mean.tobytes(), statistics.covariance.tobytes())


@pytest.mark.parametrize("known", [KNOWN, Statistics(None, KNOWN.mean, KNOWN.covariance)], ids=["own", "unknown"])
def test_statistics_come_back_bit_for_bit(known: Statistics, tmp_path: Path):
    path = save_statistics(tmp_path / "new folder" / "test.npz", known)
    assert as_tuple(load_statistics(path)) == as_tuple(known)
    assert is_statistics(path)
    assert [file.name for file in path.parent.iterdir()] == ["test.npz"]


def test_other_tools_find_mu_and_sigma(tmp_path: Path):
    with np.load(save_statistics(tmp_path / "test.npz", KNOWN)) as archive:
        np.testing.assert_array_equal(archive["mu"], KNOWN.mean)
        np.testing.assert_array_equal(archive["sigma"], KNOWN.covariance)
        assert int(archive["count"]) == 40
        assert str(archive["source"]) == "digits:test[:40]"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_plain_mu_and_sigma_are_read_with_nothing_else_known(write, dtype: type, tmp_path: Path):
    """What pytorch-fid writes. In single precision the covariance is symmetric and positive up to 1e-7 only."""
    rng = np.random.default_rng(1)
    few = statistics_of(rng.standard_normal((20, 30)))
    sigma = few.covariance.astype(dtype)
    sigma[0, 1] *= 1 + 2 * np.finfo(dtype).eps
    write(tmp_path / "fid.npz", mu=few.mean.astype(dtype), sigma=sigma)
    found = load_statistics(tmp_path / "fid.npz")
    assert (found.count, found.extractor, found.fingerprint) == (None, "", "")
    assert found.source == str(tmp_path / "fid.npz")
    np.testing.assert_array_equal(found.covariance, found.covariance.T)
    assert abs(frechet_distance(found, few)) < 1e-5 * np.trace(few.covariance)
    assert is_statistics(tmp_path / "fid.npz")


def test_an_archive_of_images_and_other_files_are_no_statistics(tmp_path: Path):
    np.savez(tmp_path / "images.npz", images=np.zeros((3, 4, 4), np.uint8))
    np.savez(tmp_path / "half.npz", mu=np.zeros(3))
    (tmp_path / "text.npz").write_text("mu.npy sigma.npy")
    for name in ("images.npz", "half.npz", "text.npz", "missing.npz", "."):
        assert not is_statistics(tmp_path / name)
        with pytest.raises(InputError, match=name):
            load_statistics(tmp_path / name)


def changed(**changes: object) -> dict[str, object]:
    return {"mu": KNOWN.mean, "sigma": KNOWN.covariance} | changes


NOT_FINITE = KNOWN.covariance.copy()
NOT_FINITE[2, 2] = np.nan
ASYMMETRIC = KNOWN.covariance.copy()
ASYMMETRIC[0, 1] += 1e-3
NO_NUMBERS = {
    "mu too long": (changed(mu=np.zeros(6)), r"mu has shape \(6,\) and sigma \(5, 5\)"),
    "mu of a row": (changed(mu=np.zeros((1, 5))), r"mu has shape \(1, 5\)"),
    "nothing": (changed(mu=np.zeros(0), sigma=np.zeros((0, 0))), r"mu has shape \(0,\)"),
    "sigma not square": (changed(sigma=np.zeros((5, 4))), r"sigma \(5, 4\)"),
    "whole numbers": (changed(mu=np.zeros(5, np.int64)), "mu is int64"),
    "text": (changed(sigma=np.full((5, 5), "x")), "sigma <U1"),
    "infinite mean": (changed(mu=np.full(5, np.inf)), "not all numbers are finite"),
    "not finite": (changed(sigma=NOT_FINITE), "not all numbers are finite"),
    "asymmetric": (changed(sigma=ASYMMETRIC), "not symmetric"),
    "negative": (changed(sigma=np.diag([1.0, 1, 1, 1, -1e-3])), "negative eigenvalue -0.001"),
}


NOTES = {
    "format": "ddpm statistics",
    "format_version": 1,
    "count": 3,
    "extractor": "",
    "fingerprint": "",
    "source": "",
    "geometry": "",
}


@pytest.mark.parametrize("case", NO_NUMBERS)
@pytest.mark.parametrize("own", [False, True])
def test_numbers_that_are_no_mean_and_covariance_are_refused(case: str, own: bool, tmp_path: Path):
    table, words = NO_NUMBERS[case]
    np.savez(tmp_path / "test.npz", **table, **(NOTES if own else {}))
    kind = DamagedFile if own and case != "negative" else InputError  # that is seen where it is used
    with pytest.raises(kind, match=words):
        load_statistics(tmp_path / "test.npz").check_features(5)


@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_symmetric_and_positive_is_meant_up_to_rounding_whatever_the_unit(size: float, tmp_path: Path):
    for wrong, words in ((ASYMMETRIC, "not symmetric"), (np.diag([1.0, 1, 1, 1, -1e-3]), "negative eigenvalue")):
        np.savez(tmp_path / "test.npz", **changed(sigma=size * wrong))
        with pytest.raises(InputError, match=words):
            load_statistics(tmp_path / "test.npz").check_features(5)
    right = KNOWN.covariance.copy()
    right[0, 1] *= 1 + 1e-7
    np.savez(tmp_path / "test.npz", **changed(sigma=size * right))
    assert load_statistics(tmp_path / "test.npz").dimensions == 5


def test_python_objects_are_not_unpickled(tmp_path: Path):
    class Loud:
        def __reduce__(self) -> tuple[object, ...]:
            return (pytest.fail, ("it was unpickled",))

    np.savez(tmp_path / "test.npz", mu=np.array([Loud()], object), sigma=KNOWN.covariance)
    with pytest.raises(InputError, match=r"test\.npz.*Python objects"):
        load_statistics(tmp_path / "test.npz")
    (tmp_path / "raw.npz").write_bytes(pickle.dumps({"mu": 1}))
    with pytest.raises(InputError, match=r"raw\.npz"):
        load_statistics(tmp_path / "raw.npz")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("mu.npy", "text")
        archive.writestr("sigma.npy", pickle.dumps(1))
    with pytest.raises(DdpmError):
        load_statistics(tmp_path / "other.npz")


def test_a_newer_format_is_refused(tmp_path: Path):
    np.savez(tmp_path / "test.npz", **changed(), **(NOTES | {"format_version": 2}))
    with pytest.raises(InputError, match="newer ddpm"):
        load_statistics(tmp_path / "test.npz")


def test_a_file_cut_short_anywhere_is_damaged(tmp_path: Path):
    whole = save_statistics(tmp_path / "test.npz", KNOWN).read_bytes()
    for length in range(2, len(whole), 37):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match=r"cut\.npz"):
            load_statistics(tmp_path / "cut.npz")


def test_a_flipped_bit_anywhere_is_noticed_or_harmless(tmp_path: Path):
    """The zip has a checksum for each array; what lies outside of those are dates, names and the like."""
    whole = save_statistics(tmp_path / "test.npz", KNOWN).read_bytes()
    noticed = 0
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "bit.npz").write_bytes(damaged)
        try:
            found = load_statistics(tmp_path / "bit.npz")
        except DdpmError:
            noticed += 1
        else:
            assert found.mean.tobytes() + found.covariance.tobytes() == as_tuple(KNOWN)[4] + as_tuple(KNOWN)[5]
    assert noticed > 0.6 * len(whole) / 7


def test_a_path_that_cannot_hold_statistics_is_refused_before_any_work(tmp_path: Path):
    assert check_statistics_file(tmp_path / "test.npz") == tmp_path / "test.npz"
    for path, words in ((tmp_path / "test.json", r"'test\.npz'"), (tmp_path, "a folder, not a file")):
        with pytest.raises(InputError, match=words):
            check_statistics_file(path)
        with pytest.raises(InputError, match=words):
            save_statistics(path, KNOWN)


OWN: dict[str, dict[str, object]] = {
    "a count of -5": {"count": -5},
    "a count of 1": {"count": 1},
    "a count that is no whole number": {"count": 2.5},
    "several counts": {"count": np.array([3, 4])},
    "a count in words": {"count": "three"},
    "a version of 0": {"format_version": 0},
    "several versions": {"format_version": np.array([1, 1])},
    "a source that is a number": {"source": 3},
    "several extractors": {"extractor": np.array(["a", "b"])},
}


@pytest.mark.parametrize("case", OWN)
def test_the_fields_beside_mu_and_sigma_are_checked(case: str, tmp_path: Path):
    np.savez(tmp_path / "test.npz", **changed(), **(NOTES | OWN[case]))
    with pytest.raises(DamagedFile, match=r"test\.npz"):
        load_statistics(tmp_path / "test.npz")


def test_sizes_are_compared_before_eigenvalues_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of 16,000 dimensions they would take many minutes; more than that are refused by the header alone."""
    for name in ("eigh", "eigvalsh"):
        monkeypatch.setattr(np.linalg, name, lambda *_: pytest.fail("computed"))
    file = save_statistics(tmp_path / "test.npz", KNOWN)
    with pytest.raises(InputError, match="features of 6 dimensions do not compare"):
        load_statistics(file).check_features(6)


@pytest.mark.parametrize("shapes", [((20_000,), (20_000, 20_000)), ((3,), (3, 10**6)), ((10**7,), (2, 2))])
def test_more_dimensions_than_memory_holds_are_refused_by_the_header(shapes, tmp_path: Path):
    """Arrays of zeros that were packed small: the larger would be 3.2 GB."""
    with zipfile.ZipFile(tmp_path / "large.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, shape in zip(("mu", "sigma"), shapes, strict=True):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    tracemalloc.start()
    with pytest.raises(InputError, match=r"large\.npz.*16,384 dimensions"):
        load_statistics(tmp_path / "large.npz")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_numbers_whose_squares_overflow_are_refused(tmp_path: Path):
    np.savez(tmp_path / "test.npz", **changed(mu=np.full(5, 1e200)))
    with pytest.raises(InputError, match="larger than 1e"):
        load_statistics(tmp_path / "test.npz")
