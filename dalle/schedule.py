"""Schedules over a stage's steps, as shares of them: whatever the budget, a stage ends where its schedules do."""

import math


def cosine(progress: float, start: float, end: float) -> float:
    """Return the value at `progress` (below 0 as 0, above 1 as 1) of half a cosine from `start` to `end`."""
    done = min(max(progress, 0.0), 1.0)
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def warmed_up(progress: float, warm_up: float, peak: float, end: float) -> float:
    """Return a rate that rises linearly to `peak` over the share `warm_up` of the steps, then falls as a cosine."""
    if progress < warm_up:
        return peak * progress / warm_up
    return cosine((progress - warm_up) / (1 - warm_up), peak, end)
