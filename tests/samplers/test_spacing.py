"""Which levels short chains visit: the formulas, by hand, and what all spacings share."""

from __future__ import annotations

import numpy as np
import pytest

from ddpm.diffusion.schedule import make_schedule
from ddpm.errors import InputError
from ddpm.samplers.spacing import SPACINGS, spaced

PAPER = make_schedule()
EVERY_SPACING = pytest.mark.parametrize("name", SPACINGS)


@EVERY_SPACING
@pytest.mark.parametrize("total", [1, 2, 3, 10, 64, 1000])
def test_every_spacing_visits_exactly_so_many_levels_and_starts_at_the_last(name: str, total: int):
    schedule = make_schedule(steps=total)
    for steps in [*range(1, min(total, 12) + 1), total]:
        levels = spaced(schedule, name, steps).levels
        assert len(levels) == steps + 1
        assert levels[0] == 0
        assert levels[1] >= 1
        assert levels[-1] == total
        assert (np.diff(levels) > 0).all()


EXPECTED = {
    "uniform": [250, 500, 750, 1000],
    "quadratic": [1000 * (k / 4) ** 2 for k in (1, 2, 3, 4)],
    "log-snr": None,
    "karras": None,
}


@EVERY_SPACING
def test_four_levels_lie_where_the_formulas_say(name: str):
    """log-snr: ln(SNR) falls in equal parts from level 1 to T. karras: SNR^(-1/14) does. Both end at level 1."""
    levels, snr = spaced(PAPER, name, 4).levels[1:], spaced(PAPER, name, 4).snr[1:]
    if EXPECTED[name] is not None:
        assert levels == pytest.approx(EXPECTED[name], rel=1e-12)
        return
    assert levels[0] == pytest.approx(1, abs=1e-9)
    values = np.log(snr) if name == "log-snr" else snr ** (-1 / 14)
    assert np.diff(values) == pytest.approx([np.diff(values).mean()] * 3, rel=1e-9)
    assert snr[[0, -1]] == pytest.approx(PAPER.snr[[1, -1]], rel=1e-9)


@pytest.mark.parametrize("steps", [3, 7, 10, 333, 999])
def test_uniform_steps_are_equally_long_up_to_rounding_the_last_one_too(steps: int):
    gaps = np.diff(spaced(PAPER, "uniform", steps).levels)
    assert gaps.max() - gaps.min() <= 1


@EVERY_SPACING
@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_numbers_of_steps_that_do_not_fit_are_refused(name: str, steps: int):
    with pytest.raises(InputError, match="choose 1 to 1000"):
        spaced(PAPER, name, steps)
