"""Two lines say how many images, which classes, which splits, and what was left out."""

from __future__ import annotations

import numpy as np

from ddpm.data.items import Source
from ddpm.data.preflight import inspect_source
from ddpm.data.sources import image_set, open_images
from ddpm.data.summary import Tally, summary


def test_a_source_of_arrays_is_summed_up_by_the_same_rule():
    first, second = open_images("digits:test[0:10]").summary()
    assert first.startswith("digits:test[0:10] (digits of scikit-learn): 10 images, ")
    assert second.startswith("split test of train, test; nothing left out")
    first, second = inspect_source("digits").summary
    assert first.startswith("digits (digits of scikit-learn): 1,797 images: train 1,500 (10 classes: 0 ")
    assert second == "splits train, test; nothing left out"
    assert image_set(np.zeros((1, 8, 8), np.uint8)).summary() == (
        "array: 1 image, no classes",
        "no splits; nothing left out",
    )


def test_names_with_line_ends_or_escape_sequences_stay_in_their_line():
    source = Source("set", {"": lambda: None}, ("a\nb",), {}, ("\x1b[31mred", "\udcff"))
    first, second = summary("src", source, {"": Tally(1, {"a\nb": 1})})
    assert first == r"src (set): 1 image, 1 class: a\nb 1"
    assert second == r"no splits; nothing left out; \x1b[31mred; \udcff"


def test_many_classes_and_kinds_are_shortened():
    classes = {f"c{k}": k + 1 for k in range(1000)}
    source = Source(
        "set", {"": lambda: None}, (*classes, "empty"), {"why": {f".{k}": 1 for k in range(10)}}, ("a note",)
    )
    first, second = summary("src", source, {"": Tally(500_500, classes)})
    assert first.startswith("src (set): 500,500 images, 1,000 classes: c0 1, c1 2, ")
    assert first.endswith("c19 20 and 980 more (1 to 1,000 images each)")
    assert second == (
        "no splits; left out: .0 1, .1 1, .2 1, .3 1, .4 1, .5 1, .6 1, .7 1 and 2 more (why); "
        "classes without images here: empty; a note"
    )
