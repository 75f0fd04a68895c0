"""The tables of the forward process, against the paper's numbers, closed forms and brute-force conditioning.

Level t here is entry t - 1 of the official code, whose arrays the numbers are quoted from (`at`). Unless a test says
otherwise the tolerance is 1e-9 relative: float64 tables lose at most 1e-12 where 1 - alpha_bar = 1e-4 cancels.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from ddpm.diffusion.schedule import BETAS, VARIANCES, Schedule, make_schedule
from ddpm.errors import InputError
from ddpm.samplers.spacing import spaced

PAPER = make_schedule()
EVERY_SCHEDULE = pytest.mark.parametrize("name", BETAS)


def near(value: float, *, rel: float = 1e-9):
    return pytest.approx(value, rel=rel, abs=0)


def at(table: np.ndarray, code_index: int) -> float:
    """The entry that the official code keeps at an index: both count one diffusion step as their first."""
    return table[code_index + 1]


def betas_by_hand(name: str, steps: int, start: float, end: float) -> list[float]:
    """The variances beta_1..beta_T, one plain number at a time."""

    def even(first: float, last: float, count: int) -> list[float]:
        return [first + (last - first) * k / (count - 1) for k in range(count)] if count > 1 else [first][:count]

    def squared_cosine(t: int) -> float:
        return math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    ramp = {"warmup10": steps // 10, "warmup50": steps // 2}
    if name in ramp:
        return even(start, end, ramp[name]) + [end] * (steps - ramp[name])
    return {
        "linear": lambda: even(start, end, steps),
        "quad": lambda: [root**2 for root in even(math.sqrt(start), math.sqrt(end), steps)],
        "const": lambda: [end] * steps,
        "cosine": lambda: [min(1 - squared_cosine(t) / squared_cosine(t - 1), 0.999) for t in range(1, steps + 1)],
    }[name]()


# ---- the paper's numbers --------------------------------------------------------------------------------------------

CONSTANTS = [
    ("beta", 1, 1.1991991991991993e-4),
    ("beta", 499, 0.010040040040040039),
    ("alpha_bar", 0, 0.9999),
    ("alpha_bar", 1, 0.9997800920720721),
    ("alpha_bar", 99, 0.89701814567496),
    ("alpha_bar", 249, 0.5240853738253606),
    ("alpha_bar", 499, 0.07858724288177824),
    ("alpha_bar", 749, 0.0033505504389367744),
    ("alpha_bar", 999, 4.035829765375676e-05),
    ("posterior_variance", 1, 5.4531876613021935e-05),
    ("posterior_variance", 999, 0.01999998352656061),
    ("posterior_x0", 1, 0.5452914995102903),
    ("posterior_xt", 1, 0.4547084989905303),
    ("posterior_x0", 999, 1.2835148717224682e-4),
    ("posterior_xt", 999, 0.9899486782675173),
]


@pytest.mark.parametrize(("table", "index", "value"), CONSTANTS)
def test_the_papers_schedule_has_the_published_constants(table: str, index: int, value: float):
    assert at(getattr(PAPER, table), index) == near(value)


def test_the_papers_schedule_ends_with_almost_no_signal():
    last = at(PAPER.alpha_bar, 999)
    assert math.sqrt(last) == near(0.006352818087570016)
    assert 1 / math.sqrt(last) == near(157.41045725150062)
    assert math.sqrt(1 / last - 1) == near(157.40728081040757)
    assert math.log(at(PAPER.snr, 0)) == near(9.21024036697596)
    assert math.log(at(PAPER.snr, 999)) == near(-10.117673183301035)


@pytest.mark.parametrize(
    ("name", "last", "digits"),
    [  # digits: as many as the reference prints
        ("linear", 4.035829765375676e-05, 1e-9),
        ("quad", 7.334124595808159e-4, 1e-9),
        ("const", 1.682967e-9, 5e-7),
        ("warmup10", 4.6137e-9, 2e-5),
        ("warmup50", 2.6061e-7, 2e-5),
    ],
)
def test_other_schedules_end_where_the_reference_says(name: str, last: float, digits: float):
    assert at(make_schedule(name).alpha_bar, 999) == near(last, rel=digits)


# ---- every schedule -------------------------------------------------------------------------------------------------


@EVERY_SCHEDULE
@pytest.mark.parametrize("steps", [1, 2, 7, 100, 1000])
def test_alpha_bar_is_the_running_product_of_one_minus_beta(name: str, steps: int):
    schedule, left, betas = make_schedule(name, steps=steps), 1.0, betas_by_hand(name, steps, 1e-4, 0.02)
    assert schedule.steps == steps == len(betas)
    assert schedule.alpha_bar[0] == 1
    for t, beta in enumerate(betas, start=1):
        left *= 1 - beta
        assert schedule.alpha_bar[t] == near(left)
        assert schedule.beta[t] == near(beta)


@EVERY_SCHEDULE
def test_tables_are_float64_have_one_entry_per_level_and_fall_from_one(name: str):
    schedule = make_schedule(name)
    for table in ("alpha_bar", "beta", "snr", "posterior_x0", "posterior_xt", "posterior_variance"):
        assert getattr(schedule, table).dtype == np.float64
        assert getattr(schedule, table).shape == (1001,)
    assert (np.diff(schedule.alpha_bar) < 0).all()
    assert schedule.alpha_bar[-1] > 0
    assert (schedule.levels == range(1001)).all()
    assert schedule.snr[0] == np.inf


def test_cosine_alpha_bar_is_the_squared_cosine_until_the_cap_on_beta_takes_hold():
    """Nichol & Dhariwal 2021, eq. 17: alpha_bar_t = f(t) / f(0); only the last beta would exceed 0.999."""
    schedule, f = make_schedule("cosine"), lambda t: math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
    expected = np.array([f(t) / f(0) for t in range(1000)])
    # A product of 1,000 rounded factors; at the end f falls like (1000 - t)^2, with an angle known to 1e-16 / 1.6e-3.
    assert schedule.alpha_bar[:1000] == pytest.approx(expected, rel=1e-9)
    assert schedule.beta[1:1000].max() < 0.999
    assert schedule.beta[1000] == near(0.999)


# ---- the posterior --------------------------------------------------------------------------------------------------


def chains(name: str) -> list[Schedule]:
    full = make_schedule(name)
    return [full, spaced(full, "uniform", 50), spaced(full, "uniform", 1), full.subset([3, 4, 5, 500, 997])]


@EVERY_SCHEDULE
def test_the_posterior_of_every_chain_is_the_joint_gaussian_of_x0_xs_and_xt_conditioned(name: str):
    """With x_0 ~ N(0, 1), condition x_s on (x_t, x_0) by the textbook formula, on the covariance of all three.

    The covariance of (x_t, x_0) has condition number up to 4e4, so 1e-9 absolute is what its inverse can give.
    """
    for chain in chains(name):
        for i in range(1, chain.steps + 1):
            s, t = chain.alpha_bar[i - 1], chain.alpha_bar[i]
            given = np.array([[1.0, math.sqrt(t)], [math.sqrt(t), 1.0]])  # of (x_t, x_0)
            across = np.array([math.sqrt(t / s), math.sqrt(s)])  # of x_s with (x_t, x_0)
            weights = np.linalg.solve(given, across)
            assert chain.posterior_xt[i] == pytest.approx(weights[0], abs=1e-9)
            assert chain.posterior_x0[i] == pytest.approx(weights[1], abs=1e-9)
            assert chain.posterior_variance[i] == pytest.approx(1 - weights @ across, abs=1e-9)


@EVERY_SCHEDULE
def test_posterior_identities_hold_in_every_chain(name: str):
    for chain in chains(name):
        a, c1, c2 = chain.alpha_bar, chain.posterior_x0, chain.posterior_xt
        assert (c1[1], c2[1]) == (1, 0)
        for i in range(2, chain.steps + 1):
            alpha = a[i] / a[i - 1]
            gain = a[i - 1] / (1 - a[i - 1]) - a[i] / (1 - a[i])
            assert c1[i] ** 2 / chain.posterior_variance[i] == near(gain, rel=1e-11)
            precision = 1 / (1 - a[i - 1]) + alpha / (1 - alpha)
            assert chain.posterior_variance[i] == near(1 / precision, rel=1e-11)
            assert c1[i] + c2[i] * math.sqrt(a[i]) == near(math.sqrt(a[i - 1]), rel=1e-12)  # means agree


def test_first_log_variance_is_the_second_posterior_variance_under_both_kinds():
    for kind in VARIANCES:
        assert at(PAPER.log_variance(kind), 0) == near(-9.81672513529567)


@EVERY_SCHEDULE
def test_later_log_variances_are_those_of_beta_or_of_the_posterior(name: str):
    for chain in chains(name):
        large, small = chain.log_variance("large"), chain.log_variance("small")
        for i in range(2, chain.steps + 1):
            assert math.exp(large[i]) == near(1 - chain.alpha_bar[i] / chain.alpha_bar[i - 1])
            assert math.exp(small[i]) == near(chain.posterior_variance[i])


@pytest.mark.parametrize("kind", VARIANCES)
def test_log_variances_of_very_short_chains_are_finite(kind: str):
    for steps in (1, 2, 3):
        chain = spaced(PAPER, "uniform", steps)
        assert np.isfinite(chain.log_variance(kind)).all()
        first = chain.posterior_variance[2] if steps > 1 else 1 - chain.alpha_bar[1]
        assert math.exp(chain.log_variance(kind)[1]) == near(first)


# ---- chains over some of the levels ---------------------------------------------------------------------------------


def test_a_subset_keeps_alpha_bar_and_names_its_levels_whatever_their_order():
    chain = PAPER.subset([700, 3, 0, 1000, 3])
    assert chain.levels.tolist() == [0, 3, 700, 1000]
    assert (chain.alpha_bar == PAPER.alpha_bar[[0, 3, 700, 1000]]).all()
    assert chain.beta[2] == near(1 - PAPER.alpha_bar[700] / PAPER.alpha_bar[3])


def test_a_subset_of_a_subset_is_the_subset_of_the_whole():
    once, twice = PAPER.subset([5, 900]), PAPER.subset(range(1001)).subset([5, 77, 900]).subset([900, 5])
    assert once.levels.tolist() == twice.levels.tolist()
    assert (once.alpha_bar == twice.alpha_bar).all()
    assert PAPER.subset([2, 4, 8, 16]).subset([16, 2]).levels.tolist() == [0, 2, 16]


# ---- real levels ----------------------------------------------------------------------------------------------------


@EVERY_SCHEDULE
def test_levels_and_their_log_snr_are_inverse_and_pass_through_the_tables(name: str):
    """Whole levels are met to the bit, so that no rounding leads out of the range; others to float64 rounding."""
    schedule = make_schedule(name, steps=100)
    whole = [schedule.level_at(value) for value in schedule.log_snr[1:]]
    assert whole == list(range(1, 101))
    assert [schedule.log_snr_at(level) for level in whole] == schedule.log_snr[1:].tolist()
    assert [schedule.alpha_bar_at(level) for level in whole] == pytest.approx(schedule.alpha_bar[1:], rel=1e-12)
    for level in np.linspace(1, 100, 777):
        alpha_bar = schedule.alpha_bar_at(level)
        assert schedule.log_snr_at(level) == near(math.log(alpha_bar / (1 - alpha_bar)))
        assert schedule.level_at(schedule.log_snr_at(level)) == near(level)
    assert schedule.log_snr_at(7.25) == near(0.75 * schedule.log_snr[7] + 0.25 * schedule.log_snr[8], rel=1e-14)
    assert (schedule.level_at(math.inf), schedule.level_at(-math.inf)) == (1, 100), "outside the process: its ends"


@pytest.mark.parametrize("level", [0, 0.999, 1000.001, math.nan])
def test_there_is_nothing_outside_the_process(level: float):
    for attempt in (PAPER.log_snr_at, PAPER.alpha_bar_at):
        with pytest.raises(AssertionError):
            attempt(level)


def test_a_chain_of_some_levels_has_no_levels_between_them():
    chain = spaced(PAPER, "uniform", 10)
    for attempt in (chain.log_snr_at, chain.alpha_bar_at, chain.level_at):
        with pytest.raises(AssertionError, match="leaves out"):
            attempt(5)


# ---- what is refused ------------------------------------------------------------------------------------------------


def by_table(alpha_bar: list[float]) -> Schedule:
    return Schedule(np.array(alpha_bar), np.arange(len(alpha_bar)))


REFUSED = {
    "more levels than entries": lambda: Schedule(np.array([1.0, 0.5]), np.arange(3)),
    "unknown schedule": lambda: make_schedule("linaer"),
    "no steps": lambda: make_schedule(steps=0),
    "start above end": lambda: make_schedule(beta_start=0.03, beta_end=0.02),
    "start at zero": lambda: make_schedule(beta_start=0.0),
    "end at one": lambda: make_schedule(beta_end=1.0),
    "no signal is left (underflow)": lambda: make_schedule("const", steps=1000, beta_end=0.9),
    "subset of nothing": lambda: PAPER.subset([]),
    "subset of the clean level": lambda: PAPER.subset([0]),
    "subset beyond the last": lambda: PAPER.subset([1001]),
    "subset below the first": lambda: PAPER.subset([-1, 5]),
    "subset between levels": lambda: PAPER.subset([1.5]),
    "subset of a level the subset left out": lambda: PAPER.subset([2, 4]).subset([3]),
    "unknown variance": lambda: PAPER.log_variance("medium"),
    "alpha_bar that starts below one": lambda: by_table([0.9, 0.5]),
    "alpha_bar that rises": lambda: by_table([1.0, 0.5, 0.6]),
    "alpha_bar that reaches zero": lambda: by_table([1.0, 0.5, 0.0]),
    "alpha_bar that is no number": lambda: by_table([1.0, np.nan]),
    "alpha_bar of one level": lambda: by_table([1.0]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_schedules_that_cannot_be_are_refused_in_one_sentence(case: str):
    with pytest.raises(InputError) as caught:
        REFUSED[case]()
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
