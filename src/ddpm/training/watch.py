"""What a run notices of itself at its log lines. All of it is read from the lines, so a resumed run notices the same.

Steps whose loss or gradient is not finite were left out by the learner; three log intervals in a row with such steps
end the run's present course (see training.loop). The alarms name other trouble, and stop nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from ddpm.base.fields import Fields, Finite, Whole

IN_A_ROW = 3
"""Log intervals in a row with a step left out after which a run goes back, or stops."""
RATE_SHARE = 0.5
"""Of the learning rate, after a run went back."""

LOOK_BACK, LEAST, RISE, SPREADS = 8, 4, 2.0, 6.0
"""A loss is a sudden rise if it is RISE times the largest of the LOOK_BACK lines before it (LEAST are enough), and
SPREADS standard deviations of theirs above their mean. On the runs of the shipped recipes that were measured, no line
had more than 1.03 times the largest of the eight before it; a network that forgets all it learned has 10 or more."""
VARIATION = 1e-3
"""An output is constant if no channel of the prediction has a larger standard deviation in LOOK_BACK lines in a row
after the warm-up (a network starts with almost nothing). Measured runs had more than 0.2 soon after it; the images
themselves, where they are what is predicted, differ by more than 0.01."""
BLOCK, BLOCKS, GROWTH = 4, 4, 4.0
"""A gradient norm grows steadily if its means over BLOCKS times BLOCK lines after the warm-up rise each time, and the
last is GROWTH times the first. In measured runs it falls, and single lines stray by a third."""
KEPT = max(LOOK_BACK, BLOCK * BLOCKS) + 1  # lines that are needed to judge the last one and the one before it
FEW = 8  # steps that a line tells of one by one

Line = Mapping[str, Any]


class FaultFields(Fields):
    """What is told of a step that was left out."""

    images: Whole
    levels: list[int]
    loss: float | str
    gradient_norm: float | str


class LineFields(Fields):
    """A line of the log; with `skipped`, how many steps were left out, it says more of them."""

    images: Whole
    loss: Finite | None
    learning_rate: Finite
    images_per_second: Finite
    gradient_norm: Finite | None = None
    prediction_std: Finite | None = None
    weights: str = ""
    steps: Whole | None = None
    skipped: Whole | None = None
    not_finite: list[FaultFields] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> LineFields:
        if self.skipped is not None and (self.steps is None or not self.not_finite):
            raise ValueError("steps and not_finite go with skipped")
        return self


def fault_keys(faults: Sequence[Line], steps: int, *, weights_finite: bool) -> dict[str, Any]:
    """What a log line says of its steps that were left out; nothing if there were none."""
    keys: dict[str, Any] = {}
    if faults:
        keys |= {"steps": steps, "skipped": len(faults), "not_finite": list(faults[:FEW])}
    return keys if weights_finite else keys | {"weights": "not finite"}


def is_bad(line: Line) -> bool:
    """Whether a step of this interval was left out, or weights were not finite at its end."""
    return "skipped" in line or "weights" in line


def learned_nothing(line: Line) -> bool:
    """Whether every step of this interval was left out, or the weights are lost."""
    return is_bad(line) and ("weights" in line or line["skipped"] == line["steps"])


def bad_in_a_row(lines: Sequence[Line]) -> int:
    """How many of the last lines are bad."""
    good = [number for number, line in enumerate(lines) if not is_bad(line)]
    return len(lines) - 1 - (good[-1] if good else -1)


def good_until(lines: Sequence[Line]) -> int:
    """Images seen before the first fault of the bad lines at the end; a checkpoint of no more of them is a good one."""
    start = len(lines) - bad_in_a_row(lines)
    if start < len(lines) and "not_finite" in lines[start]:
        return int(lines[start]["not_finite"][0]["images"]) - 1
    return int(lines[start - 1]["images"]) if start else 0


def told(line: Line) -> str:
    """What a bad line says, in words without an end."""
    parts = []
    if "skipped" in line:
        first = line["not_finite"][0]
        levels = f"at levels {', '.join(map(str, first['levels']))}, " if first["levels"] else ""
        parts.append(
            f"loss or gradient were not finite in {line['skipped']:,} of {line['steps']:,} steps to {line['images']:,} "
            f"images, which changed nothing (first at {first['images']:,} images: {levels}loss "
            f"{_short(first['loss'])}, gradient norm {_short(first['gradient_norm'])})"
        )
    if "weights" in line:
        parts.append(f"the weights are not finite at {line['images']:,} images")
    return "; ".join(parts)


def new_alarms(lines: Sequence[Line], warmup_images: int, *, weighed: bool = False) -> list[str]:
    """Sentences about the last line, unless the line before it gave the same alarm.

    weighed  whether learned uncertainty divides losses by their means: then the gradient grows as the network learns
    """
    before, known = _alarms(lines[:-1], warmup_images), {"gradient"} if weighed else set()
    return [sentence for name, sentence in _alarms(lines, warmup_images).items() if name not in {*before, *known}]


def _alarms(lines: Sequence[Line], warmup_images: int) -> dict[str, str]:
    found: dict[str, str] = {}
    if not lines:
        return found
    images, loss = f"{lines[-1]['images']:,} images", lines[-1]["loss"]
    before = np.array([line["loss"] for line in lines[-LOOK_BACK - 1 : -1] if line["loss"] is not None])
    if loss is not None and len(before) >= LEAST and loss > max(RISE * before.max(), _above(before)):
        found["loss"] = (
            f"the loss rose to {loss:.4g} at {images}, from {before[-1]:.4g}: if it stays there, the learning_rate is "
            "too high."
        )
    learnt = [line for line in lines if line["images"] > warmup_images]
    if not learnt or learnt[-1] is not lines[-1]:
        return found
    stds = [line["prediction_std"] for line in learnt[-LOOK_BACK:] if line.get("prediction_std") is not None]
    if len(stds) == LOOK_BACK and max(stds) < VARIATION:
        found["output"] = (
            f"the network predicts the same everywhere at {images} (standard deviation {stds[-1]:.1g}): look at "
            "learning_rate, and whether the images differ."
        )
    norms = [line["gradient_norm"] for line in learnt[-BLOCK * BLOCKS :] if line.get("gradient_norm") is not None]
    if len(norms) == BLOCK * BLOCKS:
        means = np.array(norms).reshape(BLOCKS, BLOCK).mean(1)
        if (np.diff(means) > 0).all() and means[-1] > GROWTH * means[0]:
            found["gradient"] = (
                f"the gradient's norm grows steadily, to {means[-1]:.3g} at {images} from {means[0]:.3g} "
                f"{BLOCK * BLOCKS} log lines before: the run may become unstable; a lower learning_rate helps."
            )
    return found


def _above(values: Any) -> float:
    return float(values.mean() + SPREADS * values.std())


def _short(number: float | str) -> str:
    return number if isinstance(number, str) else f"{number:.4g}"
