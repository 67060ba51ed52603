"""Residual correction in log-shape space: Gaussian-process regression of log(measured / surface).

Two terms: an offset shared by all shapes of an operator kind and phase, and a smooth local one that
fades with the distance in the logarithms of the sizes. A handful of measurements thus moves every
unseen shape, nearby ones most, and the band widens away from the data. (Kriging; Rasmussen and
Williams, Gaussian Processes for Machine Learning, 2006, eq. 2.25-2.26.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOCAL_SIGMA = 0.15
LENGTH = 1.2
# Measurements of one shape repeat to a few per cent.
NOISE = 0.02


class ResidualField:
    """Residuals of one operator kind, phase and type.

    points: [count, dims] logarithms of sizes. residuals: [count] log(measured / surface).
    prior_sigma: uncertainty of the surface, the spread of the shared offset.
    """

    def __init__(self, points: NDArray[np.float64], residuals: NDArray[np.float64], prior_sigma: float) -> None:
        self._points = points
        self._prior = prior_sigma
        covariance = self._covariance(points, points) + NOISE**2 * np.eye(len(points))
        self._inverse = np.linalg.inv(covariance)
        self._weights = self._inverse @ residuals

    def predict(self, point: NDArray[np.float64]) -> tuple[float, float]:
        """Mean and standard deviation of the residual at one point [dims]."""
        cross = self._covariance(point[None, :], self._points)[0]
        mean = float(cross @ self._weights)
        variance = self._prior**2 + LOCAL_SIGMA**2 - float(cross @ self._inverse @ cross)
        return mean, float(np.sqrt(max(variance, 0.0) + NOISE**2))

    def _covariance(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        squared = ((a[:, None, :] - b[None, :, :]) ** 2).sum(-1)
        covariance: NDArray[np.float64] = self._prior**2 + LOCAL_SIGMA**2 * np.exp(-0.5 * squared / LENGTH**2)
        return covariance
