"""Which weights of a checkpoint `ddpm tune ema` chose: those that commands take unless they are told which.

ema.json   beside the checkpoint, about all kinds of its weights
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ddpm.base.fields import Amount, Whole, Word
from ddpm.model.sidecar import CHOICE, EMA, Sidecar, SideFields, StoredWeights, Weights


class _ChoiceFields(SideFields):
    chosen: str
    distances: dict[str, Amount]
    criterion: str
    steps: Whole
    samples: Whole
    calls: Whole
    seed: Word
    data: str


SIDECAR = Sidecar(CHOICE, "ddpm ema", "ema", of_all=True, fields=_ChoiceFields)


@dataclass(frozen=True)
class Choice:
    """The kind of weights whose samples lie nearest to images, and how it was found.

    chosen     the kind
    distances  by kind: the criterion, on the same seeds
    criterion  in words
    steps      of the chains that the samples were drawn by
    samples    drawn with each kind
    calls      network calls in all
    seed       where the samples' seeds start
    data       the images compared with
    """

    chosen: str
    distances: dict[str, float]
    criterion: str
    steps: int
    samples: int
    calls: int
    seed: int
    data: str


def write_choice(of: Weights, choice: Choice) -> Path:
    """Store a choice beside the checkpoint; one that is there is replaced."""
    return SIDECAR.write(of, asdict(choice))


def chosen_kind(folder: Path, weights_sha256: str) -> str:
    """The kind of weights that was chosen for a checkpoint, "ema" if none was.

    Errors: as of Sidecar.read.
    """
    of = StoredWeights(str(folder), EMA, weights_sha256)
    table = SIDECAR.read(of)
    if table is None:
        return EMA
    if table["chosen"] not in table["distances"]:
        raise SIDECAR.damaged(of, f"it chose {table['chosen']}, and compared {', '.join(table['distances'])}")
    return str(table["chosen"])
