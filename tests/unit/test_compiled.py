"""The cache of compiled kernels knows every file that a kernel is made of."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cift_models import compiled

ADD = "from toy.compiled import kernel\n@kernel\ndef add(x):\n    return x + {n}\n"
TWICE = "from toy.compiled import kernel\nfrom toy.add import add\n@kernel\ndef twice(x):\n    return 2 * add(x)\n"
RUN = "from toy.twice import twice\nprint(twice(1), sum(twice.stats.cache_hits.values()))"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A package of two files, one calling the other, compiled by a copy of the decorator."""
    package = tmp_path / "toy"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(compiled.__file__, package / "compiled.py")
    (package / "add.py").write_text(ADD.format(n=1))
    (package / "twice.py").write_text(TWICE)
    return tmp_path


def run(toy: Path, **environment: str) -> tuple[list[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=toy, capture_output=True, text=True, timeout=120,
        env={"PATH": "/usr/bin:/bin", "HOME": str(toy / "home"), "PYTHONPATH": str(compiled.PACKAGE.parent)} | environment, check=True,
    )  # fmt: skip
    return done.stdout.split(), done.stderr


@pytest.mark.slow
def test_a_change_of_what_a_kernel_calls_is_a_change_of_the_kernel(toy):
    """With numba's own cache the second answer is 4 again: the file of `twice` is what it was."""
    assert run(toy)[0] == ["4", "0"]
    assert run(toy)[0] == ["4", "1"]  # from the cache
    (toy / "toy" / "add.py").write_text(ADD.format(n=9))
    assert run(toy)[0] == ["20", "0"]
    (toy / "toy" / "other.py").write_text("x = 1\n")
    assert run(toy)[0] == ["20", "1"]


@pytest.mark.slow
def test_numba_alone_would_go_on_with_what_was(toy):
    """Why the decorator is there; should numba mend it, this fails and the decorator can go."""
    plain = "from numba import njit\ndef kernel(f):\n    return njit(cache=True, nogil=True)(f)\n"
    (toy / "toy" / "compiled.py").write_text(plain)
    assert run(toy)[0] == ["4", "0"]
    (toy / "toy" / "add.py").write_text(ADD.format(n=9))
    assert run(toy)[0] == ["4", "1"]


@pytest.mark.slow
def test_kernels_work_where_nothing_can_be_written(toy):
    """An image that is read-only and has no cache folder: compiled in each process, the same numbers."""
    locked = "import toy.compiled as c\nfor l in c._Impl._locator_classes: l.from_function = classmethod(lambda *a: None)\n"
    done = subprocess.run([sys.executable, "-c", locked + RUN], cwd=toy, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["4", "0"] and not list(toy.glob("**/*.nbi"))


@pytest.mark.slow
def test_the_cache_goes_where_it_is_told(toy):
    assert run(toy, NUMBA_CACHE_DIR=str(toy / "cache"))[0] == ["4", "0"]
    assert list((toy / "cache").glob("**/*.nbi")) and not list((toy / "toy").glob("**/*.nbi"))


def test_the_stamp_follows_imports_of_every_form():
    stream = compiled.PACKAGE / "features" / "stream.py"
    found = {str(path.relative_to(compiled.PACKAGE)) for path in compiled._made_of(stream)}
    assert {"features/flows.py", "features/order_flow.py", "features/memory.py", "instruments.py", "features/__init__.py"} <= found
    assert not any(name.startswith(("models/", "stores/")) for name in found)


def test_no_kernel_of_the_library_goes_around_it():
    around = [path for path in compiled.PACKAGE.rglob("*.py") if path.name != "compiled.py" and "import njit" in path.read_text()]
    assert around == []


def test_a_word_is_said_only_where_it_takes_long(monkeypatch, caplog):
    import time

    monkeypatch.setattr(compiled, "PATIENCE_S", 0.05)
    word = compiled._Word()
    word.on_start(None)
    word.on_end(None)
    time.sleep(0.1)
    assert not caplog.records
    word.on_start(None)
    word.on_start(None)
    time.sleep(0.2)
    word.on_end(None)
    word.on_end(None)
    word.on_start(None)
    time.sleep(0.1)
    word.on_end(None)
    assert [record.message for record in caplog.records] == [compiled.WORD]
