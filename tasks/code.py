"""Which code made a result: part of every step's key."""

from __future__ import annotations

import ast
import threading
from functools import cache
from importlib import metadata
from pathlib import Path

import cift_models
from cift_models.files import digest, sha256_bytes, sha256_file, syntax_tree

_one_at_a_time = threading.Lock()


def code_sha256() -> str:
    """Digest of the syntax trees of cift_models (comments and docstrings aside) and of the packages that it runs with.

    A changed comment keeps every cached result; a changed formula, name or pinned version throws all of them away. So does another Python:
    it writes the trees otherwise, and the lock has other versions for it.
    """
    with _one_at_a_time:
        return _code_sha256()


@cache
def _code_sha256() -> str:
    package = Path(cift_models.__file__).parent
    trees = {str(path.relative_to(package)): sha256_bytes(_tree(path).encode()) for path in sorted(package.rglob("*.py"))}
    return digest({"trees": trees, "lock": _packages(package.parent / "requirements.lock")})


def _packages(lock: Path) -> str:
    """Digest of the lock; of what is installed where the code was installed without it, from a wheel."""
    if lock.is_file():
        return sha256_file(lock)
    return digest(sorted({f"{one.metadata['Name']}=={one.version}" for one in metadata.distributions()}))


def _tree(path: Path) -> str:
    """A file's syntax tree without docstrings and positions."""
    tree = syntax_tree(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            node.body = [
                statement
                for statement in body
                if not (
                    isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
                )
            ]
    return ast.dump(tree)
