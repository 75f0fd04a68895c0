"""Progressive generation (Ho et al. 2020, Fig. 6): the clean images predicted along the chain."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ddpm.samplers.state import State


def progressive(states: Iterable[State], *, every: int) -> list[Tensor]:
    """Keep one predicted x0 from each stretch of `every` levels.

    states   a sampler's, over any chain
    returns  slot k holds the last prediction made from a level in k * every + 1 .. (k + 1) * every; slot 0 is the
             final sample of the ancestral sampler; stretches that the chain leaves out are missing
    """
    slots: dict[int, Tensor] = {}
    for state in states:
        slots[int(state.start - 1) // every] = state.x0
    return [slots[k] for k in sorted(slots)]
