"""The logit whose groups share their slopes: scikit-learn's numbers where they do, groups' own where they differ."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import dblquad

from cift_models.models import logit
from cift_models.models.logit import ENOUGH, fit_shared_logit


def groups(seed: int, slopes: tuple[float, ...], rows: int = 3000):
    rng = np.random.default_rng(seed)
    made = []
    for slope in slopes:
        u = rng.normal(size=(rows, 2))
        made.append((u, rng.uniform(size=rows) < 1 / (1 + np.exp(-(slope * u[:, 0] + 0.5 * u[:, 1] + 0.2)))))
    return made


def test_shared_slopes_are_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    made = groups(0, (1.0, 1.0))
    found = fit_shared_logit(made, c=1.0, max_iter=100)
    assert found.converged and found.spread == 0 and not found.own.any()
    each = np.repeat(np.eye(2), 3000, axis=0) * 10  # bias^2 / 200 is the penalty of an input ten times as large
    oracle = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=1000)
    oracle.fit(np.column_stack([np.concatenate([u for u, _ in made]), each]), np.concatenate([up for _, up in made]))
    np.testing.assert_allclose(found.slopes, oracle.coef_[0, :2], atol=2e-3)  # two half rows a group are all that differs
    np.testing.assert_allclose(found.bias, oracle.coef_[0, 2:] * 10, atol=2e-3)


@pytest.mark.parametrize("slopes", [(1.0, 1.0), (1.0, 1.2)])
def test_groups_that_differ_little_share(slopes):
    assert all(fit_shared_logit(groups(seed, slopes), 1.0, 100).spread == 0 for seed in range(5))


def test_groups_that_differ_have_slopes_of_their_own():
    found = fit_shared_logit(groups(1, (0.5, 4.0, 1.0)), 1.0, 100)
    assert found.spread > 0
    np.testing.assert_allclose(found.slopes[0] + found.own, [0.5, 4.0, 1.0], atol=0.25)
    assert abs(found.slopes[1] - 0.5) < 0.1


def test_the_evidence_is_the_integral_over_the_weights():
    rng = np.random.default_rng(2)
    x, share, precision = rng.normal(size=(60, 2)), rng.uniform(0.5, 1.5, 60), np.array([1.0, 0.25])
    up = rng.uniform(size=60) < 1 / (1 + np.exp(-x[:, 0]))
    _, evidence, converged = logit._laplace(x, up, share, precision, 100)

    def density(b: float, a: float) -> float:
        w = np.array([a, b])
        m = x @ w
        prior = np.sqrt(precision.prod()) / (2 * np.pi) * np.exp(-0.5 * precision @ (w * w))
        return float(prior * np.exp(-share @ np.logaddexp(0, np.where(up, -m, m))))

    assert converged and evidence == pytest.approx(np.log(dblquad(density, -6, 6, -6, 6)[0]), abs=0.05)


def test_groups_without_rows_and_of_one_class_are_finite():
    nothing = (np.empty((0, 2)), np.empty(0, bool))
    u = np.random.default_rng(3).normal(size=(50, 2))
    found = fit_shared_logit([nothing, (u, np.ones(50, bool))], 1.0, 100)
    assert np.isfinite([*found.slopes, *found.bias]).all() and found.bias[0] == pytest.approx(0) and found.bias[1] > 2
    assert fit_shared_logit([(u, u[:, 0] > 0)], 1.0, 100).spread == 0  # nobody to differ from
    assert ENOUGH > 0
