"""A catalog of the parts, read from source files, so that a listing does not wait for PyTorch.

`registry.parts` gives the same list from imported classes; this one follows the same imports without executing them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from w2vlab.registry import ENTRY_POINT_GROUP, FAMILIES, PartInfo, family_named, part_info

_ABSTRACT = "abstractmethod"


@dataclass(frozen=True)
class _Class:
    """A class statement and its module."""

    module: str
    node: ast.ClassDef

    @cached_property
    def bases(self) -> list[str]:
        """Names of the base classes, without the modules they come from."""
        return [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in self.node.bases]


class Catalog:
    """All classes that importing the packages of parts would define."""

    def __init__(self) -> None:
        self.classes: dict[str, list[_Class]] = {}
        self.problems: list[str] = []
        self._exports: dict[str, set[str]] = {}
        for family in FAMILIES.values():
            self._read(family.base.rpartition(".")[0])
            self._read(family.package)
        for entry_point in entry_points(group=ENTRY_POINT_GROUP):
            self._read_plugin(entry_point)

    def parts(self, family: str) -> list[PartInfo]:
        """Lists the concrete parts of a family in alphabetical order.

        Raises:
            ValueError: The family does not exist.
        """
        name = family_named(family).name
        base = FAMILIES[name].base.rpartition(".")[2]
        found = [
            part_info(short, name, ast.get_docstring(cls.node), self._import_path(cls))
            for short, definitions in self.classes.items()
            for cls in definitions
            if short != base and base in self._ancestors(cls) and not self._abstract_methods(cls)
        ]
        return sorted((part for part in found if "._" not in part.import_path), key=lambda part: part.name)

    def _read_plugin(self, entry_point: EntryPoint) -> None:
        try:
            self._read(entry_point.module)
        except (OSError, SyntaxError, ModuleNotFoundError) as problem:
            self.problems.append(f"The parts of the plugin '{entry_point.name}' cannot be listed: {problem}")

    def _read(self, module: str) -> None:
        """Reads a module and, like an import, the modules of the same package that it imports."""
        if module in self._exports:
            return
        path = _source(module)
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        exports = self._exports[module] = set()
        for statement in tree.body:
            if isinstance(statement, ast.ClassDef):
                exports.add(statement.name)
                self.classes.setdefault(statement.name, []).append(_Class(module, statement))
            elif isinstance(statement, ast.ImportFrom | ast.Import):
                if isinstance(statement, ast.ImportFrom):
                    exports.update(alias.asname or alias.name for alias in statement.names)
                for imported in _imported(statement, package):
                    if imported.partition(".")[0] == module.partition(".")[0] and _exists(imported):
                        self._read(imported)

    def _ancestors(self, cls: _Class) -> Iterator[str]:
        for base in cls.bases:
            yield base
            for definition in self._definitions(base, cls):
                yield from self._ancestors(definition)

    def _definitions(self, base: str, cls: _Class) -> list[_Class]:
        """Returns the classes that a base may be; a base of the class's own name is foreign, such as `nn.Dropout`."""
        return [] if base == cls.node.name else self.classes.get(base, [])

    def _abstract_methods(self, cls: _Class) -> set[str]:
        inherited: set[str] = set()
        for base in cls.bases:
            for definition in self._definitions(base, cls):
                inherited |= self._abstract_methods(definition)
        methods = [node for node in cls.node.body if isinstance(node, ast.FunctionDef)]
        own = {m.name for m in methods if any(_ABSTRACT in ast.unparse(decorator) for decorator in m.decorator_list)}
        return (inherited - {method.name for method in methods}) | own

    def _import_path(self, cls: _Class) -> str:
        pieces = cls.module.split(".")
        for depth in range(1, len(pieces) + 1):
            module = ".".join(pieces[:depth])
            if cls.node.name in self._exports.get(module, ()):
                return f"{module}.{cls.node.name}"
        raise AssertionError(f"{cls.module} does not define {cls.node.name}")  # it was found there


def _imported(statement: ast.ImportFrom | ast.Import, package: str) -> Iterator[str]:
    """Yields the absolute names of modules that an import statement may load."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    parents = package.split(".")[: len(package.split(".")) - statement.level + 1] if statement.level else []
    module = ".".join([*parents, *filter(None, [statement.module])])
    yield module
    yield from (f"{module}.{alias.name}" for alias in statement.names)


def _exists(module: str) -> bool:
    try:
        return _source(module).is_file()
    except ModuleNotFoundError:
        return False


def _source(module: str) -> Path:
    """Returns the file of a module.

    Only the outermost package is looked up with `find_spec`, which would import the packages around an inner module.

    Raises:
        ModuleNotFoundError: The module does not exist, or has no Python source.
    """
    top, *inner = module.split(".")
    spec = None if top in sys.builtin_module_names else find_spec(top)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named '{module}'")
    path = Path(spec.origin)
    if inner:
        folder = path.parent.joinpath(*inner)
        path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    if path.suffix != ".py" or not path.is_file():
        raise ModuleNotFoundError(f"No module named '{module}'")
    return path
