"""Gaussian paths x_t = alpha_t data + sigma_t noise, from data at t = 0 to noise at t = 1.

A path is a frozen object of four functions of time: its schedule and their derivatives. The conversions between the quantities that a
network may predict follow from these four and are in `functional.prediction`.

Where alpha, sigma or a derivative is singular, `interval` excludes that time; solvers and likelihoods stay inside the interval.
"""

from pushforward.paths.path import Path as Path
from pushforward.paths.prediction import Prediction as Prediction
from pushforward.registry import namespace

namespace(__name__)
