"""Which checkpoint of a run a .dpc file wants: training goes on, and files of an older checkpoint stay readable."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ddpm.codec.codec_data import SIDECAR, Codec, CodecData, check_codes, make_codec, read_codec_data
from ddpm.errors import DdpmError, WrongModel
from ddpm.model.checkpoint import MODEL_FILE, every_checkpoint, find_checkpoint, load_model, read_config
from ddpm.model.model import Model
from ddpm.model.sidecar import EMA, StoredWeights


class Found(NamedTuple):
    """Codec data beside a checkpoint.

    of     the weights that they are about
    shape  (C, h, w) of a tile
    older  whether the run has a newer checkpoint
    """

    of: StoredWeights
    made: CodecData
    shape: tuple[int, int, int]
    older: bool

    @property
    def fingerprint(self) -> str:
        """Of all of its digits."""
        return self.made.own_sha256

    @property
    def named(self) -> str:
        """The checkpoint in a sentence."""
        return f"'{self.of.source}'{', which is not the newest checkpoint of its run' if self.older else ''}"


def find_in_run(run: str | Path, fingerprint: str) -> Found:
    """The codec data with a fingerprint in a run: beside the checkpoint that is meant, else any, the newest first.

    run          a run folder or a checkpoint
    fingerprint  the digits in a file's header

    Errors: no run (InputError), none has it (WrongModel, which names those that there are; a damaged file's error if
    the data may lie in it).
    """
    first = find_checkpoint(run)
    run_folder = first.parents[1] if first.parent.name == "checkpoints" else None
    others = [] if run_folder is None else every_checkpoint(run_folder)
    newest = others[-1:] or [first]
    there: list[str] = []
    problem: DdpmError | None = None
    for folder in (first, *(other for other in reversed(others) if other != first)):
        for kind in SIDECAR.kinds(folder):
            try:
                found = _codec_data(folder, kind, older=folder != newest[0])
            except DdpmError as error:
                problem = problem or error
                continue
            if found is not None and found.fingerprint.startswith(fingerprint):
                return found
            if found is not None:
                there.append(found.fingerprint)
    if problem is not None:
        raise problem
    wanted = f"it wants the model with fingerprint {fingerprint}, and"
    if there:
        raise WrongModel(f"{wanted} '{run}' has {' and '.join(there)}.")
    own = StoredWeights(str(first), EMA, read_config(first).sha256[MODEL_FILE])
    raise WrongModel(
        f"{wanted} '{run}' has none, as '{SIDECAR.path(own)}' is missing; its weights have the SHA-256 "
        f"{own.weights_sha256}."
    )


def _codec_data(folder: Path, kind: str, *, older: bool) -> Found | None:
    config = read_config(folder)
    of = StoredWeights(str(folder), kind, config.sha256[MODEL_FILE])
    made = read_codec_data(of)
    return None if made is None else Found(of, made, config.recipe.geometry.shape, older)


@dataclass
class Codecs:
    """The codecs of a model's run, each made when a file first wants it: the model's own, or another checkpoint's."""

    model: Model
    _made: dict[str, tuple[Codec, Found] | DdpmError] = field(default_factory=dict)

    def wanted(self, fingerprint: str) -> tuple[Codec, str]:
        """The codec that a file wants, and which other checkpoint it is of, in words ("": the model's own).

        Errors: as of find_in_run; a model that no codec is of (InputError); what is wrong with the checkpoint.
        """
        if fingerprint not in self._made:
            try:
                self._made[fingerprint] = self._make(fingerprint)
            except DdpmError as error:
                self._made[fingerprint] = error
        made = self._made[fingerprint]
        if isinstance(made, DdpmError):
            raise made
        codec, found = made
        return codec, "" if found.of.source == self.model.source else found.named

    def _make(self, fingerprint: str) -> tuple[Codec, Found]:
        check_codes(self.model)
        found, model = find_in_run(self.model.source, fingerprint), self.model
        if found.of != StoredWeights(model.source, model.weights, model.weights_sha256):
            model = load_model(found.of.source, weights=found.of.weights, device=str(model.device))
        return make_codec(model, found.made), found
