"""Fitting logits so that every class exists, whatever the rows: of one group, and of several that share their slopes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

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


SPREADS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""sd of a group's own slope about the shared one that are tried."""

ENOUGH = 20.0
"""Nats of evidence that the groups' own slopes must be worth. In nine simulated markets, whose symbols differ by what comes and goes
alone, they were worth up to 12 (three models each); on three stocks of which one hardly ever leaves its tick 116 and 49, on three others
up to 5."""


class SharedLogit(NamedTuple):
    """P(second class) = 1 / (1 + exp(-(bias_g + slopes . u + own_g u_0))).

    slopes float64[K], bias and own float64[G] (own is all 0 where the groups share), spread: sd of own that was chosen, 0 where they share.
    """

    slopes: NDArray[np.float64]
    bias: NDArray[np.float64]
    own: NDArray[np.float64]
    spread: float
    converged: bool


def fit_shared_logit(groups: Sequence[tuple[NDArray[np.float64], NDArray[np.bool_]]], c: float, max_iter: int) -> SharedLogit:
    """One logit for G groups of (u float64[n_g, K], class bool[n_g]): slopes for all, an intercept each, and where it pays a slope each.

    |slopes|^2 / (2 c) is added to the negative log-likelihood, and bias^2 / 200, and (own / spread)^2 / 2. The spread is the one of most
    evidence (Laplace's approximation of the likelihood without its weights; MacKay 1992), if that is worth ENOUGH nats more than none.
    Half a row of each class at 0 is added to every group. Newton's method, O(n (K + 2 G)^2) a step.
    """
    g, k = len(groups), groups[0][0].shape[1]
    which = np.concatenate([np.full(len(up) + 2, i) for i, (_, up) in enumerate(groups)])
    u = np.concatenate([np.concatenate([u, np.zeros((2, k))]) for u, _ in groups])
    up = np.concatenate([np.concatenate([up, [False, True]]) for _, up in groups])
    share = np.concatenate([np.concatenate([np.ones(len(up)), [0.5, 0.5]]) for _, up in groups])
    each = (which[:, None] == np.arange(g)).astype(np.float64)
    design = np.column_stack([u, each, each * u[:, :1]])
    common = np.concatenate([np.full(k, 1.0 / c), np.full(g, 0.01)])
    w, shared, converged = _laplace(design[:, : k + g], up, share, common, max_iter)
    found = SharedLogit(w[:k], w[k:], np.zeros(g), 0.0, converged)
    most = shared + ENOUGH
    for spread in SPREADS if g > 1 else ():
        w, evidence, converged = _laplace(design, up, share, np.concatenate([common, np.full(g, spread**-2)]), max_iter)
        if evidence > most:
            most, found = evidence, SharedLogit(w[:k], w[k : k + g], w[k + g :], spread, converged)
    return found


def _laplace(
    x: NDArray[np.float64], up: NDArray[np.bool_], share: NDArray[np.float64], precision: NDArray[np.float64], max_iter: int
) -> tuple[NDArray[np.float64], float, bool]:
    """Weights of most penalised likelihood, the log of the evidence, and whether Newton's method converged."""

    def at(w: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        m = x @ w
        q = 0.5 * (1.0 + np.tanh(0.5 * m))
        gradient = x.T @ (share * (up - q)) - precision * w
        hessian = (x * (share * q * (1 - q))[:, None]).T @ x + np.diag(precision)
        loss = float(share @ np.logaddexp(0.0, np.where(up, -m, m))) + 0.5 * float(precision @ (w * w))
        return gradient, hessian, loss

    w, converged = np.zeros(x.shape[1]), False
    gradient, hessian, loss = at(w)
    for _ in range(max_iter):
        move = np.linalg.solve(hessian, gradient)
        # Halved until it helps: the loss is convex, so that it does.
        while (after := at(w + move))[2] > loss and np.abs(move).max() > 1e-12:
            move *= 0.5
        w = w + move
        gradient, hessian, loss = after
        if np.abs(move).max() <= 1e-9 * (1.0 + np.abs(w).max()):
            converged = True
            break
    return w, -loss + 0.5 * float(np.log(precision).sum() - np.linalg.slogdet(hessian)[1]), converged
