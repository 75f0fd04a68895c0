"""FID and KID as a report: the distances, their errors, and the protocol that they depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ddpm.base.precision import STRICT
from ddpm.metrics.jackknife import Distance
from ddpm.model.trained_on import TrainedOn

KID_SCALE = 1000  # papers print a kernel distance times this
HASH_SHOWN = 12


@dataclass(frozen=True, eq=False)
class FidReport:
    """What `ddpm.evaluate_fid` returns.

    fid       Fréchet distance, with its error and its bias; None with more features than MOST_DIMENSIONS
    kid       kernel distance, unbiased; None where the reference is statistics alone
    protocol  everything that they depend on, as plain values
    seen      whether the model that drew the samples was trained on the reference; None where that was not asked
    lost      a sentence for each file that could not be written
    """

    fid: Distance | None
    kid: Distance | None
    protocol: dict[str, Any]
    seen: TrainedOn | None = None
    lost: tuple[str, ...] = ()

    def table(self) -> dict[str, Any]:
        """As plain values."""
        found = {name: value for name, value in (("fid", self.fid), ("kid", self.kid)) if value is not None}
        return {name: value.table() for name, value in found.items()} | {"protocol": self.protocol}

    def lines(self) -> list[str]:
        """For a person."""
        lines = _protocol_lines(self.protocol) + (self.seen.sentences() if self.seen is not None else [])
        if self.fid is not None:
            bias = f"bias about {self.fid.bias:.4f}, {self.fid.corrected:.4f} without it"
            lines.append(f"  fid  {_number(self.fid, 4)}   {bias}")
        if self.kid is not None:
            scaled = f"{self.kid.value * KID_SCALE:.3f} ± {self.kid.error * KID_SCALE:.3f}"
            lines.append(f"  kid  {_number(self.kid, 6)}   no bias; times {KID_SCALE:,}: {scaled}")
        return [*lines, f"± one standard error; {self.protocol['errors']}"]


def _protocol_lines(protocol: dict[str, Any]) -> list[str]:
    samples, reference, extractor = (protocol[key] for key in ("samples", "reference", "extractor"))
    counts = protocol["counts"]
    first = f"{counts['samples']:,} samples of {samples['source']}"
    if "images_seen" in samples:
        first += f", {samples['model']['weights']} weights, {samples['images_seen']:,} images seen"
    if "seeds" in samples:
        first += f", seeds {samples['seeds']}"
    drawn = [_drawn_line(samples["model"])] if "model" in samples else []
    count = "an unknown number of" if counts["reference"] is None else f"{counts['reference']:,}"
    other = f"{count} reference images of {reference['source']}, {protocol['geometry']}"
    if reference["given_as"] == "statistics":
        other += ", by their statistics"
    known_by = "" if extractor["name"] == extractor["sha256"] else f", sha256 {extractor['sha256'][:HASH_SHOWN]}"
    return [first, *drawn, other, f"features {extractor['name']}, {extractor['dimensions']:,} dimensions{known_by}"]


def _drawn_line(model: dict[str, Any]) -> str:
    """How samples were drawn; what is as usual is not said."""
    levels = "all levels" if model["spacing"] == "all" else f"{model['steps']:,} levels, {model['spacing']}"
    more = [
        f"eta {model['eta']:g}" if model["eta"] is not None else "",
        f"variance {model['variance']}" if model["variance"] is not None else "",
        f"threshold {model['threshold']}" if model["threshold"] != "static" else "",
        f"class {model['class']}" if model["class"] is not None else "",
        f"guidance {model['guidance']:g}" if model["guidance"] != 1 else "",
        f"precision {model['precision']}" if model.get("precision", STRICT) != STRICT else "",
    ]
    how = ", ".join([model["sampler"], *filter(None, more)])
    return f"drawn by {how}: {levels}; {model['calls']:,} network calls (NFE) an image"


def _number(distance: Distance, digits: int) -> str:
    low, high = distance.interval
    return f"{distance.value:.{digits}f} ± {distance.error:.{digits}f}   95 %: {low:.{digits}f} to {high:.{digits}f}"
