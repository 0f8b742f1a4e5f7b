"""Threads of BLAS and OpenMP: as many as the settings say, for the whole process, before anything is fitted.

A sum over two threads is another sum. Fits that run side by side each limit the pools around their own algebra, and put back what they
found: without one limit under all of them, what they find depends on who came first, and so would the last bits of a fit.
"""

from __future__ import annotations


def limit_threads(threads: int) -> None:
    """Limit the pools of every library that a fit uses."""
    import numpy  # noqa: F401
    import scipy.linalg  # noqa: F401
    import sklearn  # noqa: F401
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)
