"""The exponential moving average (EMA) of the weights while they change."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddpm.model.recipe import Recipe


def ema_decay(recipe: Recipe, updates: int) -> float:
    """The decay of the weights' exponential moving average (EMA; App. B).

    updates  so far; the first copies the weights (decay 0), as the official code's does
    returns  `ema_decay`, with the ramp at most (1 + n) / (10 + n) after n updates
    """
    if not updates:
        return 0.0
    decay = recipe.training.ema_decay
    return min(decay, (1 + updates) / (10 + updates)) if recipe.training.ema_ramp else decay


@torch.no_grad()
def follow(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * network, weight by weight."""
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)


@torch.no_grad()
def follow_masked(ema: nn.Module, network: nn.Module, decay: float, sound: Tensor) -> None:
    """The same where the flag `sound` (bool, on the device) is set, else nothing; rounded otherwise than follow."""
    mine: list[Tensor] = list(ema.parameters())
    theirs: list[Tensor] = list(network.parameters())
    if not decay:  # nothing was learned before: a masked step leaves both as they were drawn
        torch._foreach_copy_(mine, theirs)
        return
    way = torch._foreach_sub(theirs, mine)
    torch._foreach_mul_(way, sound * (1 - decay))
    torch._foreach_add_(mine, list(way))
