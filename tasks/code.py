"""Which code made a result: part of every step's key."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import cift_models
from cift_models.files import digest, sha256_bytes, sha256_file


@cache
def code_sha256() -> str:
    """Digest of the syntax trees of cift_models (comments and docstrings aside) and of the lock, where there is one.

    A changed comment keeps every cached result; a changed formula, name or pinned version throws all of them away.
    """
    package = Path(cift_models.__file__).parent
    trees = {str(path.relative_to(package)): sha256_bytes(_tree(path).encode()) for path in sorted(package.rglob("*.py"))}
    lock = package.parent / "requirements.lock"
    return digest({"trees": trees, "lock": sha256_file(lock) if lock.is_file() else ""})


def _tree(path: Path) -> str:
    """A file's syntax tree without docstrings and positions."""
    tree = ast.parse(path.read_bytes())
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
