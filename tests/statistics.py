"""Whether samples can come from a distribution."""

import math


def chi_squared_limit(bins: int, z: float = 4.75) -> float:
    """What Pearson's statistic over ``bins`` bins exceeds once in a million times (z = 4.75).

    Wilson and Hilferty's approximation of the chi-squared quantile, with bins - 1 degrees of
    freedom.
    """
    freedom = max(bins - 1, 1)
    return freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3
