"""The classes that a checkpoint may name; no name in a checkpoint causes an import.

* **Parts**: the loaded classes of a family. Parts of w2vlab are always loaded. Parts of another package are loaded if
  it is installed with the entry point `w2vlab.parts`, if `--parts` names their module, or if the program has imported
  them.
* **Optimizers and schedules** of `torch.optim`, `torch.optim.lr_scheduler` and `w2vlab.optim`.
* **Activations** of `torch.nn`.
* In the arguments of a part of another package: the loaded classes of that package.

Functions are never allowed.
"""

from __future__ import annotations

import inspect
import sys
from functools import cache
from importlib import import_module

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from w2vlab import optim
from w2vlab.registry import FAMILIES, import_path, import_paths, load_parts, subclasses

Schedule = (LRScheduler, ReduceLROnPlateau)

_FUNCTION_SCHEDULES = ("LambdaLR", "MultiplicativeLR")
"""Schedules with a function as argument, which a checkpoint cannot save."""


def find_class(name: str, base: type, owner: type) -> type | None:
    """Resolves a class name of a checkpoint.

    `name` itself is never imported. If a part is not found, all packages with the entry point `w2vlab.parts` are
    loaded first.

    Args:
        name: Name in the checkpoint: a dotted path, or the short name of a part.
        base: Class that the result must extend.
        owner: Class whose constructor has the result as an argument.

    Returns:
        The class; None if no allowed class has that name.
    """
    found = _find(name, base, owner)
    if found is None and may_be_part(base):
        load_parts()
        found = _find(name, base, owner)
    return found


def _find(name: str, base: type, owner: type) -> type | None:
    if name in import_paths(base) and not inspect.isabstract(base):
        return base  # the caller has passed it
    if issubclass(base, (Optimizer, *Schedule)):
        found = optimizers_and_schedules().get(name)
    else:
        found = _find_part(name, base) or _activations().get(name) or _find_in_package(name, owner)
    return found if found is not None and issubclass(found, base) else None


def is_allowed(cls: type, owner: type) -> bool:
    """Returns whether `find_class` would resolve `cls` as an argument of the constructor of `owner`."""
    path = import_path(cls)
    return cls in (_find(path, object, owner), optimizers_and_schedules().get(path))


def family_bases() -> tuple[type, ...]:
    """Returns the base classes of all families."""
    found = []
    for family in FAMILIES.values():
        module, _, base = family.base.rpartition(".")
        found.append(getattr(import_module(module), base))
    return tuple(found)


def may_be_part(base: type) -> bool:
    """Returns whether a subclass of `base` may be a part."""
    return base is object or issubclass(base, family_bases())


def _find_part(name: str, base: type) -> type | None:
    model = family_bases()[0]  # models are not parts of models
    candidates: dict[type, None] = {}
    for family in family_bases():
        if issubclass(base, family) or (issubclass(family, base) and family is not model):
            candidates |= dict.fromkeys(cls for cls in (family, *subclasses(family)) if not inspect.isabstract(cls))
    candidates = {cls: None for cls in candidates if "<locals>" not in cls.__qualname__}
    exact = [cls for cls in candidates if name in import_paths(cls)]
    if exact:
        return exact[-1]  # the latest, if a module was imported twice
    short = [cls for cls in candidates if cls.__name__ == name and issubclass(cls, base)]
    return short[0] if len(short) == 1 else None


@cache
def optimizers_and_schedules() -> dict[str, type]:
    """Returns the optimizers and schedules that a checkpoint may name, by each of their dotted paths."""
    found: dict[str, type] = {}
    for module, bases in (
        (torch.optim, (Optimizer,)),
        (torch.optim.lr_scheduler, Schedule),
        (optim, (Optimizer, *Schedule)),
    ):
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, bases) and not inspect.isabstract(cls):
                found |= {f"{module.__name__}.{cls.__name__}": cls, f"{cls.__module__}.{cls.__name__}": cls}
    for name in _FUNCTION_SCHEDULES:
        del found[f"torch.optim.lr_scheduler.{name}"]
    found["lightning.pytorch.cli.ReduceLROnPlateau"] = import_module("lightning.pytorch.cli").ReduceLROnPlateau
    return found


@cache
def _activations() -> dict[str, type]:
    module = nn.modules.activation
    classes = {name: getattr(module, name) for name in module.__all__}
    return {f"{place}.{name}": cls for name, cls in classes.items() for place in ("torch.nn", module.__name__)}


def _find_in_package(name: str, owner: type) -> type | None:
    """Returns a loaded class of the package of `owner`, if that is a third-party package.

    `getattr` on a module is avoided, because a module-level `__getattr__` may import.
    """
    package = owner.__module__.partition(".")[0]
    module, _, short = name.rpartition(".")
    if package in ("w2vlab", "torch", "lightning", "builtins") or module.partition(".")[0] != package:
        return None
    found = vars(sys.modules[module]).get(short) if module in sys.modules else None
    own = isinstance(found, type) and found.__module__.partition(".")[0] == package
    return found if own else None
