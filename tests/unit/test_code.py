"""Which code made a result: what changes the digest, and what does not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cift_models.files import sha256_bytes
from tasks import code

BEFORE = '''"""A module."""
def area(r):
    """Of a circle."""
    return 3 * r * r  # roughly
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# roughly", "# by the old rule", True),
        ("Of a circle.", "Of a disc.", True),
        ("def area", "\n\ndef area", True),
        ("3 * r", "4 * r", False),
        ("area", "surface", False),
        ("(r)", "(r=1)", False),
    ],
)
def test_words_keep_a_tree_and_formulas_change_it(tmp_path, old, new, same):
    path = tmp_path / "module.py"
    path.write_text(BEFORE)
    before = code._tree(path)
    path.write_text(BEFORE.replace(old, new))
    assert (code._tree(path) == before) is same


def test_without_a_lock_the_installed_versions_count(tmp_path, monkeypatch):
    lock = tmp_path / "requirements.lock"
    lock.write_bytes(b"numpy==1\n")
    assert code._packages(lock) == sha256_bytes(b"numpy==1\n")
    lock.unlink()

    def installed(**versions: str) -> str:
        found = [SimpleNamespace(metadata={"Name": name}, version=version) for name, version in versions.items()]
        monkeypatch.setattr(code.metadata, "distributions", lambda: iter(found))
        return code._packages(lock)

    assert installed(numpy="1", torch="2") == installed(torch="2", numpy="1")
    assert len({installed(numpy="1"), installed(numpy="2"), installed(numpy="1", torch="2")}) == 3
