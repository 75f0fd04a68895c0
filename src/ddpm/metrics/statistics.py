"""What a Fréchet distance needs to know of a set of images: count, mean and covariance of their features.

`Moments` merge, and a part can be taken away again (Chan, Golub & LeVeque 1979): each is centred on its own mean, so a
large offset common to all features costs no digits. `Statistics` add what they were measured on; on disk they are an
.npz with the keys `mu` and `sigma` of pytorch-fid, beside keys of ddpm.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ddpm.base.fields import MOST_COUNT
from ddpm.base.files import check_output, refusals, whole_file
from ddpm.base.npz import BadArchive, array_names, array_shape, read_arrays
from ddpm.base.tensors import Floats
from ddpm.errors import DamagedFile, DdpmError, InputError
from ddpm.metrics.jackknife import checked_features

FORMAT = "ddpm statistics"
FORMAT_VERSION = 1
SUFFIX = ".npz"
UNKNOWN = 0  # the count in a file, where it is not known
NOTES = ("extractor", "fingerprint", "source", "geometry")
KEYS = ("mu", "sigma", "count", *NOTES, "format", "format_version")
MOST_DIMENSIONS = 16_384  # a matrix of them takes 2 GB
LARGEST = 1e100  # of a number: squares of it are added
COUNTS = range(2, MOST_COUNT)
ROUNDING = 1e-5  # of the largest entry or eigenvalue: other tools compute covariances in single precision


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

    @cached_property
    def root(self) -> Floats:
        """R with R R^T the covariance, (D, r) with r the rank: eigenvalues within rounding of zero are left out.

        InputError if one is negative: the matrix is no covariance then.
        """
        eigenvalues, vectors = np.linalg.eigh(self.covariance)
        if eigenvalues[0] < -ROUNDING * np.abs(eigenvalues).max():
            raise InputError(
                f"{self._name} hold no covariance: sigma has the negative eigenvalue {eigenvalues[0]:.3g}."
            )
        rounding = len(eigenvalues) * np.finfo(np.float64).eps * np.abs(eigenvalues).max()
        kept = eigenvalues > rounding
        root: Floats = vectors[:, kept] * np.sqrt(eigenvalues[kept])
        return root

    def check_features(self, dimensions: int, extractor: str = "") -> None:
        """Raise InputError unless features of another set live in the same space, and the covariance is one.

        An unknown extractor passes. The covariance comes last: that takes seconds in thousands of dimensions.
        """
        if dimensions != self.dimensions:
            raise InputError(
                f"features of {dimensions} dimensions do not compare with {self._name}, of {self.dimensions}."
            )
        if extractor and self.extractor and extractor != self.extractor:
            raise InputError(
                f"{self._name} were measured with the extractor {self.extractor[:12]}, not with {extractor[:12]}: "
                "choose the same --features."
            )
        _ = self.root

    @property
    def _name(self) -> str:
        return f"the statistics of '{self.source}'" if self.source else "the statistics"


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
            raise InputError(f"{self.count} images have no covariance: it takes 2.")
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


def moments(features: Floats) -> Moments:
    """The moments of features (N, D); N may be 0."""
    mean = features.mean(0) if len(features) else np.zeros(features.shape[1])
    centred = features - mean
    return Moments(len(features), mean, centred.T @ centred)


def statistics_of(features: npt.NDArray[np.floating], **notes: str) -> Statistics:
    """Statistics of features (N, D), N >= 2; the notes are the last four fields of Statistics."""
    found = moments(checked_features(features))
    return Statistics(found.count, found.mean, found.covariance, **notes)


# ---- on disk --------------------------------------------------------------------------------------------------------


def check_statistics_file(path: str | Path) -> Path:
    """Refuse a path that statistics cannot be written to, before any work is done for them."""
    path = check_output(path, folder=False)
    if path.suffix != SUFFIX:
        raise InputError(f"statistics are written as {SUFFIX}: call the file '{path.stem}{SUFFIX}', not '{path}'.")
    return path


def save_statistics(path: str | Path, statistics: Statistics) -> Path:
    """Write statistics to an .npz file that pytorch-fid reads too; returns the file."""
    path = check_statistics_file(path)
    count = np.array(statistics.count or UNKNOWN)
    notes: dict[str, Any] = {name: getattr(statistics, name) for name in NOTES}
    notes |= {"format": FORMAT, "format_version": FORMAT_VERSION}
    with whole_file(path) as temporary:
        np.savez(temporary, mu=statistics.mean, sigma=statistics.covariance, count=count, **notes)
    return path


def is_statistics(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an .npz that holds mu and sigma; images may lie in one as well."""
    try:
        return {"mu", "sigma"} <= set(array_names(Path(path)))
    except (BadArchive, InputError):
        return False


def load_statistics(path: str | os.PathLike[str]) -> Statistics:
    """Read statistics of ddpm, or plain mu and sigma as pytorch-fid writes them (count and extractor are unknown then).

    Whether the covariance has negative eigenvalues is seen when it is used (`Statistics.check_features`).

    Errors: no such file, another file, Python objects in it, or numbers that are no mean and covariance (InputError);
    an archive cut short or altered, or one that ddpm wrote with such numbers (DamagedFile).
    """
    path = Path(path)
    table = _read(path)
    own = _word(table.get("format")) == FORMAT
    if own:
        _check_own(table, path)
    complaint = _complaint(table["mu"], table["sigma"])
    if complaint:
        raise _refusal(path, complaint, own=own)
    mean, covariance = table["mu"].astype(np.float64), table["sigma"].astype(np.float64)
    covariance = (covariance + covariance.T) / 2  # changes no bit of a symmetric one
    if not own:
        return Statistics(None, mean, covariance, source=str(path))
    return Statistics(int(table["count"]) or None, mean, covariance, *(_word(table[name]) or "" for name in NOTES))


def _refusal(path: Path, complaint: str, *, own: bool) -> DdpmError:
    error: type[DdpmError] = DamagedFile if own else InputError
    return error(f"'{path}' holds no mean and covariance: {complaint}.")


def _word(array: npt.NDArray[Any] | None) -> str | None:
    """The text that an array of one is, None if it is none."""
    return str(array) if array is not None and array.shape == () and array.dtype.kind == "U" else None


def _whole(array: npt.NDArray[Any]) -> int:
    """The whole number that an array of one is, -1 if it is none."""
    return int(array) if array.shape == () and array.dtype.kind in "iu" else -1


def _read(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    """The arrays under KEYS, mu and sigma among them."""
    with refusals(path, "read"), path.open("rb") as file:
        start = file.read(2)
    if start != b"PK":
        raise InputError(f"'{path}' is no {SUFFIX} file with mu and sigma.")
    try:
        names = array_names(path)
        if not {"mu", "sigma"} <= set(names):
            raise InputError(f"'{path}' holds {', '.join(names[:20]) or 'nothing'}, and not mu and sigma.")
        found = [key for key in KEYS if key in names]
        shapes = [array_shape(path, key) for key in ("mu", "sigma")]
        if max(max(shape, default=0) for shape in shapes) > MOST_DIMENSIONS:
            complaint = (
                f"mu has shape {shapes[0]} and sigma {shapes[1]}, and the most are {MOST_DIMENSIONS:,} dimensions"
            )
            raise _refusal(path, complaint, own=False)
        return dict(zip(found, read_arrays(path, *found), strict=True))
    except BadArchive:
        raise DamagedFile(f"'{path}' is cut short or damaged.") from None


def _check_own(table: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Raise DamagedFile unless all keys are there, and InputError if they are of a newer format."""
    missing = [key for key in KEYS if key not in table]
    if missing:
        raise DamagedFile(f"'{path}' is damaged: {', '.join(missing)} is missing in it.")
    if _whole(table["format_version"]) > FORMAT_VERSION:
        raise InputError(f"'{path}' has a format version this ddpm does not read; install a newer ddpm.")
    count = _whole(table["count"])
    if _whole(table["format_version"]) < 1 or (count != UNKNOWN and count not in COUNTS):
        raise DamagedFile(f"'{path}' is damaged: its count or format_version is no such number.")
    if None in [_word(table[name]) for name in NOTES]:
        raise DamagedFile(f"'{path}' is damaged: {', '.join(NOTES)} are not all text.")


def _complaint(mean: npt.NDArray[Any], covariance: npt.NDArray[Any]) -> str:
    """What keeps two arrays from being a mean and a covariance, or ""."""
    if not all(np.issubdtype(array.dtype, np.floating) for array in (mean, covariance)):
        return f"mu is {mean.dtype} and sigma {covariance.dtype}, not floating-point numbers"
    if mean.ndim != 1 or not mean.size or covariance.shape != 2 * mean.shape:
        return f"mu has shape {mean.shape} and sigma {covariance.shape}, not (D,) and (D, D)"
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        return "not all numbers are finite"
    if max(float(np.abs(array).max()) for array in (mean, covariance)) > LARGEST:
        return f"some numbers are larger than {LARGEST:.0e}"
    if np.abs(covariance - covariance.T).max() > ROUNDING * np.abs(covariance).max():
        return "sigma is not symmetric"
    return ""
