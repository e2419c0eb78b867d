"""Counts the files of this project that a file imports when it is imported itself, and their lines.

    python scripts/imports_of.py w2vlab/modules/masked_prediction.py

Imports within functions are not followed. A name that a package re-exports counts with the package and all that it
imports.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "w2vlab"


def imports_of(path: Path) -> list[Path]:
    """Returns `path` and all files of the project that importing it reads, sorted."""
    found: set[Path] = set()
    waiting = [path.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(ast.parse(path.read_text(encoding="utf-8")))
    return sorted(found)


def _imported(module: ast.AST) -> Iterator[Path]:
    for node in ast.iter_child_nodes(module):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield from _file_of(f"{node.module}.{alias.name}") or _file_of(node.module)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from _file_of(alias.name)
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.expr):
            yield from _imported(node)


def _file_of(module: str) -> list[Path]:
    if module.split(".")[0] != PACKAGE:
        return []
    path = ROOT / Path(*module.split("."))
    return [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]


def main(path: str) -> None:
    """Prints each file with its lines, and the totals."""
    total = 0
    files = imports_of(Path(path))
    for file in files:
        lines = len(file.read_text(encoding="utf-8").splitlines())
        total += lines
        print(f"{lines:6} {file.relative_to(ROOT)}")
    print(f"{total:6} lines in {len(files)} files")


if __name__ == "__main__":
    main(*sys.argv[1:])
