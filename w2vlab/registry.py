"""A read-only view of the parts there are; jsonargparse builds them.

Subclassing a family's base class is all the registration there is. This file knows the families, imports the packages
that hold parts (installed third-party ones too), lists what is there and explains an unknown name. It imports nothing
heavy by itself, so that `w2vlab parts` can use it without PyTorch.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points

from w2vlab.wording import W2VLabWarning

ENTRY_POINT_GROUP = "w2vlab.parts"
"""A package that names a module in this group has the module's parts found by short name."""


@dataclass(frozen=True)
class Family:
    """One kind of part.

    Attributes:
        name: Singular, as in YAML and messages.
        plural: As users also type it.
        base: Import path of the base class.
        package: Package that holds the built-in parts.
    """

    name: str
    plural: str
    base: str
    package: str


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("model", "models", "w2vlab.modules.update.TrainedModule", "w2vlab.modules"),
        Family("encoder", "encoders", "w2vlab.interfaces.FeatureEncoder", "w2vlab.encoders"),
        Family("context", "contexts", "w2vlab.interfaces.ContextNetwork", "w2vlab.contexts"),
        Family("quantizer", "quantizers", "w2vlab.interfaces.Quantizer", "w2vlab.quantizers"),
        Family("masking", "maskings", "w2vlab.interfaces.Masking", "w2vlab.masking"),
        Family("loss", "losses", "w2vlab.interfaces.PredictionLoss", "w2vlab.losses"),
        Family("penalty", "penalties", "w2vlab.interfaces.Penalty", "w2vlab.losses"),
        Family("decoder", "decoders", "w2vlab.interfaces.Decoder", "w2vlab.decoders"),
    )
}


@dataclass(frozen=True)
class PartInfo:
    """What a listing says about one part.

    Attributes:
        name: Short name, as YAML and flags take it.
        family: Key of `FAMILIES`.
        summary: First line of the docstring.
        reference: The docstring's `Reference:` section on one line; empty without one.
        import_path: Shortest path that the class can be imported from.
    """

    name: str
    family: str
    summary: str
    reference: str
    import_path: str


def family_named(name: str) -> Family:
    """Finds a family by its singular or plural name.

    Raises:
        ValueError: There is no such family.
    """
    for family in FAMILIES.values():
        if name in (family.name, family.plural):
            return family
    raise ValueError(f"Unknown family '{name}'. {known_names(name, FAMILIES)}")


def known_names(name: str, known: Iterable[str]) -> str:
    """Says which names are known and which of them `name` was probably meant to be."""
    known = list(known)
    return f"Known: {', '.join(known)}.{did_you_mean(name, known)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `" Did you mean X?"` for the known name nearest to `name`, or nothing where none is near."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[near[0]]}?" if near else ""


def load_parts() -> None:
    """Imports every package that holds parts, so that short names resolve.

    A third-party package that cannot be imported is named in a warning and left out: a run that does not use it must
    not fail because of it.

    Raises:
        ValueError: Two parts of one family have the same short name.
    """
    for family in FAMILIES.values():
        importlib.import_module(family.package)
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry_point.load()
        except Exception as problem:  # whatever a foreign module does on import is not this run's fault
            warnings.warn(
                f"The parts of the plugin '{entry_point.name}' ({entry_point.value}) are not available: importing it "
                f"failed with {type(problem).__name__}: {problem}",
                category=W2VLabWarning,
                stacklevel=2,
            )
    for name in FAMILIES:
        part_classes(name)


def import_parts(modules: str | None) -> None:
    """Imports modules of somebody's own that hold parts, so that a checkpoint may name them.

    Args:
        modules: Their names with commas between, as a user has typed them; None for none.

    Raises:
        ValueError: One cannot be imported.
    """
    for name in filter(None, (modules or "").split(",")):
        try:
            importlib.import_module(name.strip())
        except Exception as problem:  # whatever a foreign module does on import
            raise ValueError(
                f"`parts` must be modules that can be imported, but {name.strip()} cannot: "
                f"{type(problem).__name__}: {problem}."
            ) from problem


def part_classes(family: str) -> dict[str, type]:
    """Returns the concrete classes of a family that are imported, by short name in alphabetical order.

    Raises:
        ValueError: Two classes have the same short name, or there is no such family.
    """
    module, _, base = family_named(family).base.rpartition(".")
    found: dict[str, type] = {}
    for cls in _subclasses(getattr(importlib.import_module(module), base)):
        if inspect.isabstract(cls) or not _is_public(cls):
            continue
        other = found.setdefault(cls.__name__, cls)
        if other is not cls:
            raise ValueError(
                f"Two parts of the family '{family}' are called '{cls.__name__}': {import_path(other)} and "
                f"{import_path(cls)}. Rename one, so that the short name says which is meant."
            )
    return dict(sorted(found.items()))


def parts(family: str) -> list[PartInfo]:
    """Lists the imported parts of a family in alphabetical order.

    Raises:
        ValueError: Two parts have the same short name, or there is no such family.
    """
    name = family_named(family).name
    return [
        PartInfo(cls.__name__, name, *read_docstring(cls.__doc__), import_path(cls))
        for cls in part_classes(name).values()
    ]


def suggest(name: str, family: str) -> str:
    """Explains that no part of `family` is called `name`, and what it was probably meant to be."""
    return f"Unknown {family} '{name}'. {known_names(name, part_classes(family))}"


def read_docstring(docstring: str | None) -> tuple[str, str]:
    """Returns the first line of a docstring and its `Reference:` section on one line."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    summary = lines[0] if lines else ""
    reference: list[str] = []
    if "Reference:" in lines:
        for line in lines[lines.index("Reference:") + 1 :]:
            if not line.startswith(" "):
                break
            reference.append(line.strip())
    return summary, " ".join(reference)


def import_path(cls: type) -> str:
    """Returns the shortest path that `cls` can be imported from, which is the one that saved configs hold."""
    pieces = cls.__module__.split(".")
    for depth in range(1, len(pieces) + 1):
        module = ".".join(pieces[:depth])
        if getattr(sys.modules.get(module), cls.__name__, None) is cls:
            return f"{module}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _subclasses(base: type) -> Iterator[type]:
    cls: type
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _is_public(cls: type) -> bool:
    """Leaves out what jsonargparse cannot name (local and private classes) and what tests define for themselves."""
    if "<locals>" in cls.__qualname__ or "._" in f".{import_path(cls)}":
        return False
    return not any(piece in ("tests", "conftest") or piece.startswith("test_") for piece in cls.__module__.split("."))
