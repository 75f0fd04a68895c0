"""Rows drawn by a seed, and whether two sets share images."""

from __future__ import annotations

import numpy as np

from ddpm.data.sources import image_set
from ddpm.data.stream import Reader
from ddpm.data.subsets import chosen_rows, hashes, seen_before

RNG = np.random.default_rng(0)
FITTED = RNG.integers(0, 256, (300, 1, 8, 8), np.uint8)
OTHERS = RNG.integers(0, 256, (300, 1, 8, 8), np.uint8)


def test_rows_are_all_or_as_many_as_asked_for_each_once_and_rising():
    for limit in (None, 50, 80):
        assert chosen_rows(50, limit, 3).tolist() == list(range(50))
    rows = chosen_rows(50, 20, 3)
    assert rows.tolist() == sorted(set(rows.tolist())) == chosen_rows(50, 20, 3).tolist()
    assert len(rows) == 20
    assert set(rows.tolist()) <= set(range(50))
    assert rows.tolist() != chosen_rows(50, 20, 4).tolist()


def test_equal_images_have_equal_hashes_and_others_have_others():
    found = hashes(np.concatenate([FITTED, FITTED[:5]]))
    assert found[300:] == found[:5]
    assert len(set(found)) == 300
    assert {len(one) for one in found} == {16}


def test_images_are_known_by_their_source_or_by_more_than_a_few_that_are_shared():
    """3 of 300 images are 1 %: that many duplicates prove nothing."""
    images, known = image_set(OTHERS), hashes(FITTED)
    assert not seen_before(images, Reader(images), "another", known)
    assert seen_before(images, Reader(images), images.fingerprint, known)
    for shared, seen in ((3, False), (4, True)):
        mixed = image_set(np.concatenate([OTHERS[shared:], FITTED[:shared]]))
        assert seen_before(mixed, Reader(mixed), "another", known) is seen
    few = image_set(FITTED[:20])
    assert seen_before(few, Reader(few), "another", known)
    assert not seen_before(images, Reader(images, np.arange(10)), "another", known[:0])
