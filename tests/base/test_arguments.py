"""Arguments are converted to the types of their annotations, or refused by name."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from ddpm.base import arguments
from ddpm.base.arguments import checked
from ddpm.errors import InputError


class Options(TypedDict, total=False):
    """What may follow."""

    eta: float | None


def everything(
    whole: int = 0,
    real: float = 0.0,
    word: str = "",
    flag: bool = False,
    maybe: int | None = None,
    seeds: Iterable[int] = (),
    names: Sequence[str | Path] = (),
    out: str | Path = "out",
    place: str | os.PathLike[str] = "here",
    images: ArrayLike | None = None,
    anything: Any = None,
    own: Options | None = None,
    batch_size: int | None = 1,
    **how: Unpack[Options],
) -> dict[str, Any]:
    """One of each kind."""
    return {key: value for key, value in locals().items() if key != "how"} | how


taken = checked(everything, {"word": "; a dictionary has some"}, {"batch_size": (1, 64)})

GOOD: list[tuple[str, Any, Any]] = [
    ("whole", 3, 3),
    ("whole", np.uint8(3), 3),
    ("whole", torch.tensor(3), 3),
    ("real", 3, 3.0),
    ("real", np.float32(0.5), 0.5),
    ("word", "a", "a"),
    ("flag", True, True),
    ("flag", np.bool_(True), True),
    ("maybe", None, None),
    ("maybe", np.int64(4), 4),
    ("seeds", range(3), [0, 1, 2]),
    ("seeds", (seed for seed in range(2)), [0, 1]),
    ("seeds", np.arange(2), [0, 1]),
    ("names", ("a", Path("b")), ["a", Path("b")]),
    ("out", Path("b"), Path("b")),
    ("place", Path("b"), Path("b")),
    ("place", "", ""),
    ("images", [[1, 2]], [[1, 2]]),
    ("images", None, None),
    ("anything", True, True),
    ("eta", 1, 1.0),
    ("eta", None, None),
    ("batch_size", 1, 1),
    ("batch_size", None, None),
    ("unknown", True, True),
]
BAD: list[tuple[str, Any]] = [
    *(("whole", value) for value in (1.5, "1", b"1", None, True, np.bool_(True), np.array([1, 2]), object())),
    *(("real", value) for value in ("1", None, False, 1j, [1.0])),
    *(("word", value) for value in (3, b"a", None, Path("a"))),
    *(("flag", value) for value in (1, 0, "yes", None)),
    *(("maybe", value) for value in ("1", 1.0, True)),
    *(("seeds", value) for value in (3, "12", b"12", ["1"], [1.0], None, {"a": 1})),
    *(("names", value) for value in ("ab", [3], None)),
    *(("out", value) for value in (3, None, b"a", "")),
    *(("place", value) for value in (3, None)),
    *(("eta", value) for value in ("1", True)),
    *(("batch_size", value) for value in (0, -1, 1.0)),
]


@pytest.mark.parametrize(("name", "value", "expected"), GOOD, ids=[f"{name} {k}" for k, (name, *_) in enumerate(GOOD)])
def test_what_is_of_the_type_is_converted_to_it(name: str, value: Any, expected: Any):
    if name == "unknown":  # as of any function
        with pytest.raises(TypeError, match="missing"):
            checked(lambda a, **more: more, {}, {})(**{name: value})
        assert checked(lambda **more: more, {}, {})(**{name: value}) == {name: value}
        return
    found = taken(**{name: value})[name]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{name} {k}" for k, (name, _) in enumerate(BAD)])
def test_what_is_not_is_refused_by_name_in_one_sentence(name: str, value: Any):
    with pytest.raises(InputError, match=f"^{name} ") as caught:
        taken(**{name: value})
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len(sentence) < 150


def test_positional_arguments_are_checked_and_too_many_are_a_type_error():
    assert taken(np.int8(2), 1)["real"] == 1.0
    with pytest.raises(InputError, match="real"):
        taken(2, "1")
    with pytest.raises(TypeError, match="positional"):
        checked(lambda a: a, {}, {})(1, 2)


def test_sentences_say_the_type_the_value_and_where_to_get_one():
    with pytest.raises(InputError, match=r"^word must be str, not 3; a dictionary has some\.$"):
        taken(word=3)
    with pytest.raises(InputError, match=r"^out must be str \| Path, not 3\.$"):
        taken(out=3)
    with pytest.raises(InputError, match=r"^seeds must be Iterable\[int\], not 'ab'\.$"):
        taken(seeds="ab")


def test_the_function_keeps_its_name_its_text_and_its_own_errors():
    assert (taken.__name__, taken.__doc__) == (everything.__name__, everything.__doc__)

    def failing(a: int) -> None:
        raise TypeError("its own")

    with pytest.raises(TypeError, match="its own"):
        checked(failing, {}, {})(1)


BEYOND: list[tuple[str, Any, str]] = [
    ("batch_size", 65, "at most 64, not 65"),
    ("batch_size", 10**12, "at most 64"),
    ("batch_size", 0, "at least 1, not 0"),
    ("whole", 10**5000, "64 bits"),
    ("whole", 2**63, "64 bits"),
    ("real", 10**400, "64 bits"),
    ("maybe", -(10**30), "64 bits"),
    ("seeds", range(10**12), "10,000,000"),
    ("seeds", range(10**40), "10,000,000"),
    ("seeds", itertools.count(), "10,000,000"),
    ("seeds", [10**5000], "64 bits"),
    ("word", 10**5000, "thousands of digits"),
]


@pytest.mark.parametrize(("name", "value", "words"), BEYOND, ids=range(len(BEYOND)))
def test_numbers_and_lists_beyond_their_limits_are_refused_by_name(name: str, value: Any, words: str, monkeypatch):
    monkeypatch.setattr(arguments, "MOST_ITEMS", 1000) if isinstance(value, itertools.count) else None
    with pytest.raises(InputError, match=rf"^{name} .*{words.replace('10,000,000', '(1,000|10,000,000)')}"):
        taken(**{name: value})


def test_an_alias_stands_for_what_it_names():
    """NumPy 2.5 made ArrayLike one, as the statement `type ArrayLike = ...` does."""

    class Alias:
        __value__ = int | ArrayLike

    assert arguments._converted([1, 2], Alias()) == [1, 2]
