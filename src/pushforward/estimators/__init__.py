"""Estimators of scikit-learn: densities, outliers and samples of tables, in pipelines and searches."""

from pushforward.registry import namespace

namespace(__name__)
