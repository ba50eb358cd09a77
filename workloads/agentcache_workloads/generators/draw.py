"""Draws that several generators share."""

import numpy as np


def gamma(rng: np.random.Generator, mean: float, cv: float) -> float:
    """A Gamma variate with this mean and coefficient of variation."""
    return float(rng.gamma(1 / cv**2, mean * cv**2))
