"""Fitting a multinomial logit so that every class exists, whatever the rows."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray


def fit_logit(
    u: NDArray[np.float64], classes: NDArray[np.int64], n_classes: int, c: float, max_iter: int, threads: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Weights float64[n_classes, K], bias float64[n_classes] and whether it converged; p is the softmax of `bias + u w`.

    u float64[n, K], classes int64[n] in 0 .. n_classes - 1; |w|^2 / (2 c) is added to the negative log-likelihood (the bias is free).
    Half a row of each class at the mean of u is added: a class without rows gets a small probability, not zero.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    rows = np.concatenate([u, np.repeat(u.mean(axis=0)[None], n_classes, axis=0)])
    targets = np.concatenate([classes, np.arange(n_classes)])
    shares = np.concatenate([np.ones(len(u)), np.full(n_classes, 0.5)])
    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=c, tol=1e-6, max_iter=max_iter).fit(rows, targets, sample_weight=shares)
    converged = int(fitted.n_iter_[0]) < max_iter
    if n_classes == 2:
        # scikit-learn gives one row for two classes: the logit of the second.
        return np.concatenate([np.zeros_like(fitted.coef_), fitted.coef_]), np.array([0.0, float(fitted.intercept_[0])]), converged
    return fitted.coef_, fitted.intercept_, converged
