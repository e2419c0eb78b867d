"""A read-only view of the available parts; jsonargparse builds them.

Subclassing a family's base class is all the registration there is. This module defines the families, imports the
packages of parts (including those of installed plugins), lists the parts and explains an unknown name. It does not
import PyTorch, so that `w2vlab parts` starts quickly.
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

from w2vlab.utils.messages import W2VLabWarning

ENTRY_POINT_GROUP = "w2vlab.parts"
"""The entry-point group of plugins: parts of a module that is listed in it are found by their short names."""


@dataclass(frozen=True)
class Family:
    """One kind of part.

    Attributes:
        name: Singular, as in YAML and messages.
        plural: Plural, which `w2vlab parts` takes as well.
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
        Family("encoder", "encoders", "w2vlab.interfaces.networks.FeatureEncoder", "w2vlab.encoders"),
        Family("context", "contexts", "w2vlab.interfaces.networks.ContextNetwork", "w2vlab.contexts"),
        Family("positions", "positions", "w2vlab.interfaces.positions.AttentionPositions", "w2vlab.positions"),
        Family("quantizer", "quantizers", "w2vlab.interfaces.networks.Quantizer", "w2vlab.quantizers"),
        Family("teacher", "teachers", "w2vlab.interfaces.teachers.Teacher", "w2vlab.teachers"),
        Family("masking", "maskings", "w2vlab.interfaces.networks.Masking", "w2vlab.masking"),
        Family("loss", "losses", "w2vlab.interfaces.objectives.PredictionLoss", "w2vlab.losses"),
        Family("negatives", "negatives", "w2vlab.interfaces.objectives.NegativeSampler", "w2vlab.negatives"),
        Family("penalty", "penalties", "w2vlab.interfaces.objectives.Penalty", "w2vlab.losses"),
        Family("decoder", "decoders", "w2vlab.interfaces.objectives.Decoder", "w2vlab.decoders"),
        Family(
            *("augmentation", "augmentations", "w2vlab.interfaces.augmentations.Augmentation", "w2vlab.augmentations")
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class PartInfo:
    """A part as `w2vlab parts` lists it.

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
        ValueError: The family does not exist.
    """
    for family in FAMILIES.values():
        if name in (family.name, family.plural):
            return family
    raise ValueError(f"Unknown family '{name}'. {known_names(name, FAMILIES)}")


def known_names(name: str, known: Iterable[str]) -> str:
    """Returns the known names, and the one that `name` is probably a misspelling of."""
    known = list(known)
    return f"Known: {', '.join(known)}.{did_you_mean(name, known)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `" Did you mean X?"` for the known name nearest to `name`, or an empty string if none is near."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[near[0]]}?" if near else ""


def load_parts() -> None:
    """Imports every package of parts, so that short names resolve.

    A plugin that cannot be imported causes a warning and is skipped, because a run that does not use it must not fail.

    Raises:
        ValueError: Two parts of one family have the same short name.
    """
    for family in FAMILIES.values():
        importlib.import_module(family.package)
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry_point.load()
        except Exception as problem:  # importing a plugin can fail in any way
            warnings.warn(
                f"The parts of the plugin '{entry_point.name}' ({entry_point.value}) are not available: importing it "
                f"failed with {type(problem).__name__}: {problem}",
                category=W2VLabWarning,
                stacklevel=2,
            )
    for name in FAMILIES:
        part_classes(name)


def import_parts(modules: str | None) -> None:
    """Imports the user's own modules of parts, so that a checkpoint may name these parts.

    Args:
        modules: Names of modules, separated by commas, as the user typed them; None for no modules.

    Raises:
        ValueError: A module cannot be imported.
    """
    for name in filter(None, (modules or "").split(",")):
        try:
            importlib.import_module(name.strip())
        except Exception as problem:  # importing a foreign module can fail in any way
            raise ValueError(
                f"`parts` must be modules that can be imported, but {name.strip()} cannot: "
                f"{type(problem).__name__}: {problem}."
            ) from problem


def part_classes(family: str) -> dict[str, type]:
    """Returns the imported concrete classes of a family by short name, in alphabetical order.

    Raises:
        ValueError: Two classes have the same short name, or the family does not exist.
    """
    module, _, base = family_named(family).base.rpartition(".")
    found: dict[str, type] = {}
    for cls in subclasses(getattr(importlib.import_module(module), base)):
        if inspect.isabstract(cls) or not _is_public(cls):
            continue
        other = found.setdefault(cls.__name__, cls)
        if other is not cls:
            raise ValueError(
                f"Two parts of the family '{family}' are called '{cls.__name__}': {import_path(other)} and "
                f"{import_path(cls)}. Rename one, so that short names are unique."
            )
    return dict(sorted(found.items()))


def parts(family: str) -> list[PartInfo]:
    """Lists the imported parts of a family in alphabetical order.

    Raises:
        ValueError: Two parts have the same short name, or the family does not exist.
    """
    name = family_named(family).name
    return [part_info(cls.__name__, name, cls.__doc__, import_path(cls)) for cls in part_classes(name).values()]


def suggest(name: str, family: str) -> str:
    """Returns the error message for an unknown part `name` of `family`, with the most similar known name."""
    return f"Unknown {family} '{name}'. {known_names(name, part_classes(family))}"


def part_info(name: str, family: str, docstring: str | None, path: str) -> PartInfo:
    """Describes a part by the first line of its docstring and its `Reference:` section."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    summary = lines[0] if lines else ""
    reference: list[str] = []
    if "Reference:" in lines:
        for line in lines[lines.index("Reference:") + 1 :]:
            if not line.startswith(" "):
                break
            reference.append(line.strip())
    return PartInfo(name=name, family=family, summary=summary, reference=" ".join(reference), import_path=path)


def import_path(cls: type) -> str:
    """Returns the shortest path that `cls` can be imported from; saved configurations hold this path."""
    pieces = cls.__module__.split(".")
    for depth in range(1, len(pieces) + 1):
        module = ".".join(pieces[:depth])
        if getattr(sys.modules.get(module), cls.__name__, None) is cls:
            return f"{module}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def import_paths(cls: type) -> tuple[str, str]:
    """Returns `import_path` and the path in the file that defines `cls`; configurations may hold either of them."""
    return import_path(cls), f"{cls.__module__}.{cls.__qualname__}"


def subclasses(base: type) -> Iterator[type]:
    """Yields all loaded subclasses of `base`, also indirect ones."""
    cls: type
    for cls in base.__subclasses__():
        yield cls
        yield from subclasses(cls)


def _is_public(cls: type) -> bool:
    """Returns False for classes that jsonargparse cannot name (local and private ones) and for classes of tests."""
    if "<locals>" in cls.__qualname__ or "._" in f".{import_path(cls)}":
        return False
    return not any(piece in ("tests", "conftest") or piece.startswith("test_") for piece in cls.__module__.split("."))
