"""The full sum: every term of every image, in shards that outlive the process and never mix with another sum's."""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import os
import signal
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddpm.base.files import only_process
from ddpm.base.noise import normals, stream_keys
from ddpm.base.progress import Advance, Progress
from ddpm.base.units import bits, images_to_x
from ddpm.data.stream import Reader
from ddpm.diffusion.bound import prior_nats, step_term
from ddpm.diffusion.optimal_variance import Measured
from ddpm.diffusion.schedule import make_schedule
from ddpm.errors import DamagedFile, InputError
from ddpm.evaluation import full_sum as full_module
from ddpm.evaluation.full_sum import FullSum, full_sum
from ddpm.likelihood.estimate import VariationalBound, estimate_bound
from ddpm.likelihood.monte_carlo import Calls, Scoring, Terms
from ddpm.likelihood.rate_distortion import RateDistortion, estimate_rate_distortion
from ddpm.model.scoring import scoring_for
from scorings import Counting, image_set, pixels, scoring_of, stored_model

SHORT = make_schedule(steps=20, beta_start=5e-3, beta_end=0.5)
IMAGES = 11


@pytest.fixture(autouse=True)
def few_calls_a_shard(monkeypatch):
    """Two images a shard, so eleven images are six."""
    monkeypatch.setattr(full_module, "SHARD_CALLS", 2 * SHORT.steps)


def summed(folder: Path, **options) -> FullSum:
    return FullSum(scoring_of(SHORT, pixels(IMAGES), wobble=0.2, **options), folder)


def shards(folder: Path) -> dict[str, bytes]:
    """What the arrays hold; the zip around them has the time in it."""
    found = {}
    for file in sorted(folder.glob("shard-*.npz")):
        with np.load(file) as held:
            found |= {f"{file.name}/{name}": held[name].tobytes() for name in held.files}
    return found


def same(one: VariationalBound | RateDistortion, other: VariationalBound | RateDistortion) -> bool:
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(np.asarray(getattr(one, field.name)), np.asarray(getattr(other, field.name)))
    return True


@pytest.mark.parametrize("chain", [SHORT, SHORT.subset([1, 4, 20])], ids=["all levels", "three"])
def test_it_is_the_sum_of_all_terms(chain, tmp_path: Path):
    """A plain double loop with the same noise: term i of image n has the number n S + i - 1."""
    whole = summed(tmp_path, chain=chain, seed=3)
    whole.compute()
    nats = np.empty((IMAGES, chain.steps))
    errors = np.empty_like(nats)
    x0 = images_to_x(torch.from_numpy(pixels(IMAGES)), torch.float64)
    for n in range(IMAGES):
        for i in range(1, chain.steps + 1):
            key = stream_keys("full noise", 3, torch.tensor([n * chain.steps + i - 1]))
            noise = normals(key, x0.shape[1:]).double()
            term = step_term(whole.scoring.denoiser, x0[n : n + 1], torch.tensor([i]), noise=noise, chain=chain)
            nats[n, i - 1], errors[n, i - 1] = float(term.nats), float(term.squared_error)
    prior = prior_nats(x0, chain).numpy()
    scale = bits(1.0) / 8
    bound, profile = whole.bound(), whole.rate_distortion()
    columns = {"prior": prior, "decoder": nats[:, 0], "steps": nats[:, 1:].sum(1), "total": prior + nats.sum(1)}
    for name, column in columns.items():
        assert getattr(bound, name).value == pytest.approx(scale * column.mean(), rel=1e-10)
        assert getattr(bound, name).error == pytest.approx(scale * column.std(ddof=1) / IMAGES**0.5, rel=1e-8)
    assert (bound.images, bound.calls) == (IMAGES, IMAGES * chain.steps)
    np.testing.assert_allclose(profile.bits, scale * np.append(prior.mean(), nats.mean(0)), rtol=1e-10)
    np.testing.assert_allclose(profile.squared_error[1:], errors.mean(0), rtol=1e-10)
    np.testing.assert_allclose(profile.bits_error[1:], scale * nats.std(0, ddof=1) / IMAGES**0.5, rtol=1e-6)
    assert profile.rate[0] == pytest.approx(bound.total.value, rel=1e-12)
    np.testing.assert_allclose(whole.totals(), columns["total"], rtol=1e-10)


def test_it_agrees_with_the_estimate_and_its_profile(tmp_path: Path):
    """Within five of the errors of the estimates and of the sum's own noise (at most that over the images)."""
    whole = summed(tmp_path)
    whole.compute()
    for name in ("total", "steps", "decoder"):
        full, estimate = getattr(whole.bound(), name), getattr(estimate_bound(whole.scoring, 4096), name)
        assert full.value == pytest.approx(estimate.value, abs=5 * np.hypot(full.error, estimate.error))
    assert whole.bound().prior.value == pytest.approx(estimate_bound(whole.scoring, 4096).prior.value, rel=0.02)
    profile, measured = whole.rate_distortion(), estimate_rate_distortion(whole.scoring, 2000)
    apart = np.abs(profile.bits - measured.bits) / np.hypot(profile.bits_error, measured.bits_error)
    assert apart.max() < 5


# ---- shards ---------------------------------------------------------------------------------------------------------


def test_shards_are_written_one_by_one_and_the_calls_are_told_beforehand(tmp_path: Path):
    there: list[int] = []

    class Watching(Counting):
        @contextmanager
        def stage(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
            with super().stage(title, total, done) as advance:

                def watching(more: int, note: str = "") -> None:
                    there.append(len(list(tmp_path.glob("sum/shard-*.npz"))))
                    advance(more, note)

                yield watching

    whole, progress = summed(tmp_path / "sum"), Watching()
    assert whole.shards == 6
    whole.compute(progress=progress)
    assert there == [0, 1, 2, 3, 4, 5]
    assert progress.stages == {"Full sum": [IMAGES * SHORT.steps] * 2}
    assert whole.missing() == []


def test_finished_shards_are_never_computed_again(tmp_path: Path):
    whole, progress = summed(tmp_path), Counting()
    whole.compute()
    first = whole.bound()
    (tmp_path / "shard-000002.npz").unlink()
    assert whole.missing() == [2]
    whole.compute(progress=progress)
    assert progress.stages == {"Full sum": [2 * SHORT.steps] * 2}
    assert same(whole.bound(), first)
    again = Counting()
    whole.compute(progress=again)
    assert again.stages == {}


def sum_until_killed(folder: Path) -> None:
    class Killing(Progress):
        @contextmanager
        def stage(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
            seen: list[int] = []

            def advance(more: int, note: str = "") -> None:
                seen.append(more)
                if len(seen) == 6:
                    os.kill(os.getpid(), signal.SIGKILL)

            yield advance

    summed(folder, batch_size=20).compute(progress=Killing())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_killed_half_way_and_started_again_it_equals_one_never_killed(tmp_path: Path):
    """Batches of 20 calls are half a shard: the kill comes in the third shard, at its last batch."""
    process = multiprocessing.get_context("fork").Process(target=sum_until_killed, args=(tmp_path / "killed",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    killed = summed(tmp_path / "killed", batch_size=20)
    assert killed.missing() == [2, 3, 4, 5]
    killed.compute()
    once = summed(tmp_path / "once", batch_size=20)
    once.compute()
    assert shards(tmp_path / "killed") == shards(tmp_path / "once")
    assert same(killed.bound(), once.bound())
    assert same(killed.rate_distortion(), once.rate_distortion())


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_processes_share_the_work_and_their_sum_is_that_of_one(count: int, tmp_path: Path):
    told: list[int] = []
    for index in range(count, 0, -1):
        progress = Counting()
        summed(tmp_path / "shared").compute((index, count), progress)
        told += [done for done, _ in progress.stages.values()]
    assert sum(told) == IMAGES * SHORT.steps
    alone = summed(tmp_path / "alone")
    alone.compute()
    assert shards(tmp_path / "shared") == shards(tmp_path / "alone")
    assert same(summed(tmp_path / "shared").bound(), alone.bound())


def test_one_share_is_computed_by_one_process_at_a_time(tmp_path: Path):
    whole = summed(tmp_path)
    with only_process(tmp_path, ".lock-1-2"):
        with pytest.raises(InputError, match="another process"):
            whole.compute((1, 2))
        whole.compute((2, 2))
    assert whole.missing() == [0, 2, 4]


class Fast(Scoring):
    """Terms without a network, of nothing in particular."""

    def terms(self, calls: Calls, purpose: str) -> Terms:
        random = np.random.default_rng(len(calls.steps))
        return Terms(random.random(len(calls.steps)), random.random(len(calls.steps)))


def test_memory_holds_one_shard_at_a_time(tmp_path: Path, monkeypatch):
    """400 images of 1,000 steps are 6.4 MB of terms, a shard of 8 images 128 kB and its plan 192 kB more.

    A third of the whole leaves room for several of them, and none for all.
    """
    monkeypatch.setattr(full_module, "SHARD_CALLS", 8192)
    whole = FullSum(Fast(**vars(scoring_of(make_schedule(), pixels(400, (1, 1, 1))))), tmp_path)
    tracemalloc.start()
    for work in (whole.compute, whole.bound, whole.rate_distortion):
        tracemalloc.reset_peak()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        assert peak < 400 * 1000 * 16 / 3, (work.__name__, peak)
    tracemalloc.stop()


# ---- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_shard_cut_short_is_refused_by_name(keep: int, tmp_path: Path):
    whole = summed(tmp_path)
    whole.compute()
    file = tmp_path / "shard-000003.npz"
    file.write_bytes(file.read_bytes()[:keep])
    for read in (whole.bound, whole.rate_distortion):
        with pytest.raises(DamagedFile, match=r"shard-000003\.npz") as raised:
            read()
        assert raised.value.exit_code == 4
    file.unlink()
    whole.compute()
    assert whole.bound().total.value > 0


def test_a_shard_of_another_sum_is_refused_by_name(tmp_path: Path):
    whole, other = summed(tmp_path / "whole"), summed(tmp_path / "other", chain=SHORT.subset([1, 20]))
    whole.compute()
    other.compute()
    file = tmp_path / "whole" / "shard-000000.npz"
    file.write_bytes((tmp_path / "other" / "shard-000000.npz").read_bytes())
    with pytest.raises(DamagedFile, match=r"shard-000000\.npz"):
        whole.bound()


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_is_refused_by_name_or_changes_nothing(every: int, tmp_path: Path):
    """Some bits say nothing (the time of writing); all others are either refused or lead to the same numbers.

    Two images of two steps leave a file that is mostly headers, where a bit can do most; two bits of every byte: one
    that goes round, and the second lowest, by which a digit of a shape becomes a smaller one.
    """
    whole = FullSum(scoring_of(SHORT, pixels(2), chain=SHORT.subset([1, 20])), tmp_path)
    whole.compute()
    bound, profile = whole.bound(), whole.rate_distortion()
    file = tmp_path / "shard-000000.npz"
    content = file.read_bytes()
    wrong: list[tuple[int, int, str]] = []
    for place in range(0, len(content), every):
        for bit in {1, place % 8}:
            file.write_bytes(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :])
            try:
                same(whole.rate_distortion(), profile)
                same(whole.bound(), bound)
            except DamagedFile as error:
                wrong += [] if "shard-000000.npz" in str(error) else [(place, bit, str(error))]
            except (Exception, AssertionError) as error:
                wrong.append((place, bit, f"{type(error).__name__}: {error}"))
    assert not wrong, (len(wrong), wrong[:10])


# ---- whose it is ----------------------------------------------------------------------------------------------------


def test_whatever_changes_the_numbers_changes_the_folder(tmp_path: Path):
    model = stored_model(tmp_path / "model")
    images = image_set(pixels(9, (1, 4, 4)))

    def named(model=model, images=images, variance="small", **options) -> Path:
        scoring = scoring_for(model, images, variance=variance, **options)
        return full_sum(model, scoring, tmp_path).folder

    base = named()
    assert named() == base
    assert named(batch_size=3) == base
    others = [
        named(seed=1),
        named(limit=5),
        named(limit=5, seed=1),
        named(variance="large"),
        named(images=image_set(pixels(9, (1, 4, 4), seed=1))),
        named(images=image_set(pixels(8, (1, 4, 4)))),
        named(model=stored_model(tmp_path / "other", seed=1)),
        named(model=dataclasses.replace(model, weights="raw")),
    ]
    assert len({base, *others}) == len(others) + 1


def test_folders_of_earlier_versions_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They are named by what the weights are called on disk, and by keys in alphabetical order."""
    sha = hashlib.sha256(b'{"a": "x", "b": [1, 2.5]}').hexdigest()
    assert full_module._digest({"b": [1, 2.5], "a": "x"}) == sha
    named: list[dict[str, Any]] = []
    model = stored_model(tmp_path / "model")
    scoring = scoring_for(model, image_set(pixels(9, (1, 4, 4))))
    monkeypatch.setattr(full_module, "_digest", lambda table: named.append(table) or "0" * 64)
    for weights, stored in (("ema", "averaged"), ("raw", "raw")):
        full_sum(dataclasses.replace(model, weights=weights), scoring, tmp_path)
        assert named[-1]["weights"] == [model.weights_sha256, stored]


def with_levels(scoring: Scoring, levels: list[int], scale: float) -> Scoring:
    steps = scoring.chain.steps
    error = scale * np.linspace(0, 1, steps + 1)
    measured = Measured(error, np.full(steps + 1, -7.0), np.full(steps + 1, 1.0), 0.3)
    denoiser = dataclasses.replace(scoring.denoiser, variance="optimal", measured=measured)
    return dataclasses.replace(scoring, denoiser=denoiser, chain=scoring.chain.subset(levels))


def test_other_levels_and_other_measured_variances_have_folders_of_their_own(tmp_path: Path):
    model = stored_model(tmp_path / "model")
    scoring = scoring_for(model, image_set(pixels(9, (1, 4, 4))))
    found = {
        full_sum(model, with_levels(scoring, levels, scale), tmp_path).folder
        for levels in ([1, 5, 12], [1, 6, 12], [1, 12])
        for scale in (0.1, 0.2)
    }
    assert len(found) == 6


def test_a_limit_sums_only_the_images_drawn(tmp_path: Path):
    model = stored_model(tmp_path / "model")
    scoring = scoring_for(model, image_set(pixels(9, (1, 4, 4))), limit=4, seed=2)
    assert isinstance(scoring.images, Reader)
    whole = full_sum(model, scoring, tmp_path)
    whole.compute()
    assert whole.bound().images == 4
    assert whole.bound().calls == 4 * 12
