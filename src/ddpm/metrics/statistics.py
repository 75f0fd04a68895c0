"""What a Fréchet distance needs to know of a set of images: count, mean and covariance of their features.

`Moments` are collected block by block and merged (Chan, Golub & LeVeque 1979): each block is centred on its own mean,
so a large offset common to all features costs no digits. `Statistics` are their end, with a note of what they are of,
and lie on disk as .npz with the keys `mu` and `sigma` that pytorch-fid and others use, beside keys of our own.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ddpm.base.files import check_output, whole_file
from ddpm.base.tensors import Floats
from ddpm.errors import DamagedFile, DdpmError, InputError
from ddpm.metrics.jackknife import checked_features

FORMAT = "ddpm statistics"
FORMAT_VERSION = 1
SUFFIX = ".npz"
UNKNOWN = 0  # the count in a file, where nobody knows it
KEYS = ("mu", "sigma", "count", "extractor", "fingerprint", "source", "geometry", "format", "format_version")
ROUNDING = 1e-5  # of the largest entry or eigenvalue: other tools compute covariances in single precision
DAMAGES = (OSError, EOFError, ValueError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


# ---- in memory ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of features.

    count        images, at least 2; None: unknown
    mean         (D,) float64
    covariance   (D, D) float64, symmetric, divided by count - 1
    extractor    `Extractor.sha256` of what computed the features; "" unknown
    fingerprint  of the images; "" unknown
    source       what the user called them
    geometry     of the images, as Geometry writes itself; "" unknown
    """

    count: int | None
    mean: Floats
    covariance: Floats
    extractor: str = ""
    fingerprint: str = ""
    source: str = ""
    geometry: str = ""

    @property
    def dimensions(self) -> int:
        """D."""
        return len(self.mean)

    def check_features(self, dimensions: int, extractor: str = "") -> None:
        """Raise InputError unless features of another set live in the same space; an unknown extractor passes."""
        name = f"the statistics of '{self.source}'" if self.source else "the statistics"
        if dimensions != self.dimensions:
            raise InputError(f"features of {dimensions} dimensions do not compare with {name}, of {self.dimensions}.")
        if extractor and self.extractor and extractor != self.extractor:
            theirs, ours = (text[:12] for text in (self.extractor, extractor))
            raise InputError(f"{name} are of the extractor {theirs}, not of {ours}; the same --features would fit.")


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over images that merge.

    count    images, 0 or more
    mean     (D,) float64
    scatter  (D, D) float64, sum of (f - mean)(f - mean)^T
    """

    count: int
    mean: Floats
    scatter: Floats

    @property
    def covariance(self) -> Floats:
        """(D, D), divided by count - 1."""
        if self.count < 2:
            raise InputError(f"{self.count} images have no covariance; 2 would fit.")
        return self.scatter / (self.count - 1)

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets together."""
        count, apart = self.count + other.count, other.mean - self.mean
        share = other.count / max(count, 1)
        scatter = self.scatter + other.scatter + self.count * share * np.outer(apart, apart)
        return Moments(count, self.mean + share * apart, scatter)

    def without(self, part: Moments) -> Moments:
        """The moments of the images that are not in `part`, which must be fewer than all."""
        count, apart = self.count - part.count, part.mean - self.mean
        share = part.count / count
        scatter = self.scatter - part.scatter - self.count * share * np.outer(apart, apart)
        return Moments(count, self.mean - share * apart, scatter)

    def statistics(
        self, *, extractor: str = "", fingerprint: str = "", source: str = "", geometry: str = ""
    ) -> Statistics:
        """As a value to keep; at least 2 images."""
        return Statistics(self.count, self.mean, self.covariance, extractor, fingerprint, source, geometry)


def moments(features: Floats) -> Moments:
    """The moments of features (N, D); N may be 0."""
    mean = features.mean(0) if len(features) else np.zeros(features.shape[1])
    centred = features - mean
    return Moments(len(features), mean, centred.T @ centred)


def moments_of(blocks: Iterable[Floats]) -> Moments:
    """The moments of features that come in blocks (N_k, D), at least one block."""
    return reduce(Moments.__add__, map(moments, blocks))


def statistics_of(
    features: npt.NDArray[np.floating],
    *,
    extractor: str = "",
    fingerprint: str = "",
    source: str = "",
    geometry: str = "",
) -> Statistics:
    """Statistics of features (N, D), N >= 2."""
    found = moments(checked_features(features))
    return found.statistics(extractor=extractor, fingerprint=fingerprint, source=source, geometry=geometry)


# ---- on disk --------------------------------------------------------------------------------------------------------


def check_statistics_file(path: str | Path) -> Path:
    """Refuse a path that statistics cannot be written to, before any work is done for them."""
    path = check_output(path, folder=False)
    if path.suffix != SUFFIX:
        raise InputError(f"statistics are written as {SUFFIX}, not as '{path}'; '{path.stem}{SUFFIX}' would fit.")
    return path


def save_statistics(path: str | Path, statistics: Statistics) -> Path:
    """Write statistics to an .npz file that pytorch-fid reads too; returns the file."""
    path = check_statistics_file(path)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            mu=statistics.mean,
            sigma=statistics.covariance,
            count=statistics.count or UNKNOWN,
            extractor=statistics.extractor,
            fingerprint=statistics.fingerprint,
            source=statistics.source,
            geometry=statistics.geometry,
            format=FORMAT,
            format_version=FORMAT_VERSION,
        )
    return path


def is_statistics(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an .npz that holds mu and sigma; images may lie in one as well."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {"mu.npy", "sigma.npy"} <= set(archive.namelist())
    except DAMAGES:
        return False


def load_statistics(path: str | os.PathLike[str]) -> Statistics:
    """Read statistics, ours or plain mu and sigma as pytorch-fid writes them (then count and extractor are unknown).

    Errors: no such file, another file, Python objects in it, or numbers that are no mean and covariance (InputError);
    an archive cut short or altered, or one of ours with such numbers (DamagedFile).
    """
    path = Path(path)
    table = _read(path)
    ours = str(table.get("format", "")) == FORMAT
    if ours:
        _check_ours(table, path)
    complaint = _complaint(table["mu"], table["sigma"])
    if complaint:
        error: type[DdpmError] = DamagedFile if ours else InputError
        raise error(f"'{path}' holds no mean and covariance: {complaint}.")
    mean, covariance = table["mu"].astype(np.float64), table["sigma"].astype(np.float64)
    covariance = (covariance + covariance.T) / 2  # changes no bit of a symmetric one
    if not ours:
        return Statistics(None, mean, covariance, source=str(path))
    notes = (str(table[key]) for key in ("extractor", "fingerprint", "source", "geometry"))
    return Statistics(int(table["count"]) or None, mean, covariance, *notes)


def _read(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    """The arrays under KEYS, mu and sigma among them."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise InputError(f"statistics '{path}' could not be read: {error.strerror or error}.") from None
    if start != b"PK":
        raise InputError(f"'{path}' is no {SUFFIX} file; one with mu and sigma would fit.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            table = {key: archive[key] for key in KEYS if key in names}
    except DAMAGES as error:
        if "Object arrays" in str(error):
            raise InputError(f"'{path}' holds Python objects, which are not read; plain numbers would fit.") from None
        raise DamagedFile(f"'{path}' is cut short or damaged.") from None
    if not {"mu", "sigma"} <= set(table):
        raise InputError(f"'{path}' holds {', '.join(names) or 'nothing'}; mu and sigma would fit.")
    if not all(isinstance(member, np.ndarray) for member in table.values()):  # NumPy hands on other members as bytes
        raise DamagedFile(f"'{path}' is damaged: not all of its members are arrays.")
    return table


def _check_ours(table: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Raise DamagedFile unless our own keys are there, and InputError if they are of a format to come."""
    missing = [key for key in KEYS if key not in table]
    if missing:
        raise DamagedFile(f"'{path}' is damaged: {', '.join(missing)} is missing in it.")
    if int(table["format_version"]) > FORMAT_VERSION:
        raise InputError(f"'{path}' has a format version this ddpm does not read; a newer ddpm would fit.")


def _complaint(mean: npt.NDArray[Any], covariance: npt.NDArray[Any]) -> str:
    """What keeps two arrays from being a mean and a covariance, or ""."""
    if not all(np.issubdtype(array.dtype, np.floating) for array in (mean, covariance)):
        return f"mu is {mean.dtype} and sigma {covariance.dtype}, not floating-point numbers"
    if mean.ndim != 1 or not mean.size or covariance.shape != 2 * mean.shape:
        return f"mu has shape {mean.shape} and sigma {covariance.shape}, not (D,) and (D, D)"
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        return "not all numbers are finite"
    if np.abs(covariance - covariance.T).max() > ROUNDING * np.abs(covariance).max():
        return "sigma is not symmetric"
    eigenvalues = np.linalg.eigvalsh(covariance.astype(np.float64))
    if eigenvalues[0] < -ROUNDING * np.abs(eigenvalues).max():
        return f"sigma has the negative eigenvalue {eigenvalues[0]:.3g}"
    return ""
