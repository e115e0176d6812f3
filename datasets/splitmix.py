"""A stateless random number generator: the same numbers on any machine, any of them without the others."""

import numpy as np
from numpy.typing import NDArray

STEP = np.uint64(0x9E3779B97F4A7C15)
"""What SplitMix64 adds to its state for each number."""


def splitmix64(states: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit states as SplitMix64 does (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
    number generators"; the shifts and factors are Stafford's variant 13)."""
    states = (states ^ (states >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    states = (states ^ (states >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return states ^ (states >> np.uint64(31))
