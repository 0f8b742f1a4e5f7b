"""What must hold where little is installed: kernels need numpy, numba and torch alone, and nobody else owns our names."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.processes import ROOT

BLOCKED = (
    "polars",
    "pandas",
    "pyarrow",
    "pytorch_lightning",
    "torch_geometric",
    "sklearn",
    "xgboost",
    "hmmlearn",
    "scipy",
    "prefect",
    "mlflow",
)
KERNELS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "cift_models" / "models").glob("*/kernel.py"))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_is_imported_on_a_bare_machine(kernel: str):
    module = kernel.removesuffix(".py").replace("/", ".")
    script = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r})); import importlib; importlib.import_module({module!r})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-1500:]


def test_there_are_kernels_to_look_at():
    assert len(KERNELS) >= 5


@pytest.mark.parametrize("name", ["cift_models", "tasks", "flows", "serving"])
def test_our_names_are_ours(name: str):
    assert set(packages_distributions().get(name, ["cift"])) == {"cift"}
    assert Path(__import__(name).__file__ or "").is_relative_to(ROOT)
