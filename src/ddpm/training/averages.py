"""Averages of the weights while they change: the exponential moving average (EMA), and others of relative lengths."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn

from ddpm.model.recipe import Recipe
from ddpm.model.sidecar import EMA, of_length


def decays(recipe: Recipe, updates: int) -> dict[str, float]:
    """The decay of each average that a recipe wants, by its kind; the first update copies the weights (decay 0).

    updates  so far
    """
    lengths = recipe.training.ema_lengths
    return {EMA: ema_decay(recipe, updates)} | {of_length(length): length_decay(length, updates) for length in lengths}


def ema_decay(recipe: Recipe, updates: int) -> float:
    """The decay of the weights' exponential moving average (EMA; App. B).

    updates  so far; the first copies the weights (decay 0), as the official code's does
    returns  `ema_decay`, with the ramp at most (1 + n) / (10 + n) after n updates
    """
    if not updates:
        return 0.0
    decay = recipe.training.ema_decay
    return min(decay, (1 + updates) / (10 + updates)) if recipe.training.ema_ramp else decay


def length_decay(length: float, updates: int) -> float:
    """The decay of an average of a relative length (Karras et al. 2024, EDM2, sec. 3.1).

    The weights at time tau of a run of t so far weigh as tau^power, and the decay of the n-th update is
    (1 - 1/n)^(power + 1): so the average reaches back over the same share of a run, however long it is.
    """
    return float((updates / (updates + 1)) ** (power(length) + 1))


@functools.cache
def power(length: float) -> float:
    """The power of an average of a relative length (EDM2, sec. 3.1 and app. C).

    length  the standard deviation of tau^power over 0..1, normalised: sqrt(p + 1) / ((p + 2) sqrt(p + 3)); at most 0.3.
            The plain average of all weights so far, power 0, has 0.289.
    """
    # Squared, with s = length^-2, this is p^3 + 7 p^2 + (16 - s) p + 12 - s = 0; the largest root is the one above -1.
    square = length**-2
    return float(np.roots([1, 7, 16 - square, 12 - square]).real.max())


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float, sound: Tensor | None = None) -> None:
    """average <- decay * average + (1 - decay) * network, weight by weight.

    sound  a flag (bool, on the device): only where it is set, else nothing; rounded otherwise than without one
    """
    mine: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(network.parameters())
    if sound is None:
        torch._foreach_lerp_(mine, theirs, 1 - decay)
    elif not decay:  # nothing was learned before: a masked step leaves both as they were drawn
        torch._foreach_copy_(mine, theirs)
    else:
        way = torch._foreach_sub(theirs, mine)
        torch._foreach_mul_(way, sound * (1 - decay))
        torch._foreach_add_(mine, list(way))
