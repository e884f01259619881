"""What several seeds say together: a mean and its 95 % t-interval."""

import numpy as np

ENOUGH = 3  # seeds from which an interval means something


def interval(values, log: bool = False) -> tuple[float, float, float]:
    """Mean and 95 % t-interval of seeds' values, on a logarithmic scale where ``log``: (mean, low, high).

    One value is its own bounds. Values that are not finite are bounded by the smallest and the largest.
    """
    values = np.asarray(values, dtype=float)
    if not np.isfinite(values).all() or len(values) < 2:
        return float(values.mean()), float(values.min()), float(values.max())
    from scipy.stats import t  # here, as it takes longer to import than most commands take to answer

    scaled = np.log(values) if log else values
    half = t.ppf(0.975, len(values) - 1) * scaled.std(ddof=1) / len(values) ** 0.5
    found = scaled.mean() + half * np.array([0, -1, 1])
    return tuple(map(float, np.exp(found) if log else found))


def jackknife(value: float, without: list[float]) -> tuple[float, float, float]:
    """A figure of all seeds together and its 95 % interval, from the figures that leave one seed out each: (value,
    low, high) (Efron & Tibshirani 1993, chapter 11). Of a mean it is ``interval``."""
    if len(without) < 2:
        return value, value, value
    from scipy.stats import t  # here, as in ``interval``

    count, without = len(without), np.asarray(without, dtype=float)
    half = t.ppf(0.975, count - 1) * ((count - 1) / count * np.square(without - without.mean()).sum()) ** 0.5
    return value, float(value - half), float(value + half)


def whisker(values) -> tuple[float, float]:
    """What a figure draws beside a mean: the t-interval of three seeds or more, the range of fewer."""
    if len(values) < ENOUGH:
        return min(values), max(values)
    return interval(values)[1:]


def words(count: int) -> str:
    """A number of seeds in words, as it stands beside a verdict."""
    return {0: "no record", 1: "one seed", 2: "two seeds"}.get(count, f"{count} seeds")
