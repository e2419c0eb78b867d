"""What a checkpoint may name, decided by the name before anything is imported.

* **Parts**: classes of a family that are loaded. Those of w2vlab always are; those of other packages are if they
  are installed with the entry point `w2vlab.parts`, if `--parts` names their module, or if a program has imported
  it.
* **Optimisers and schedules**: those of `torch.optim`, `torch.optim.lr_scheduler` and `w2vlab.optim`.
* **Activations** of `torch.nn`.
* For arguments of a part of another package: the classes of that package, if they are loaded.

Functions never.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from w2vlab import optim
from w2vlab.registry import FAMILIES, import_path, load_parts

Schedule = (LRScheduler, ReduceLROnPlateau)

_OF_FUNCTIONS = ("LambdaLR", "MultiplicativeLR")
"""Schedules that take a function, which no checkpoint can hold."""


def find(name: str, base: type, owner: type) -> type | None:
    """Returns the class that a checkpoint means by `name`; None if there is no class of that name that it may name.

    Nothing is imported because of `name`. Packages that are installed with the entry point are, all of them.

    Args:
        name: As it was saved: a full path, or the short name of a part.
        base: What the class must extend.
        owner: The class whose constructor gets it.
    """
    found = _find(name, base, owner)
    if found is None and extends_a_family(base):
        load_parts()
        found = _find(name, base, owner)
    return found


def _find(name: str, base: type, owner: type) -> type | None:
    if name in (import_path(base), f"{base.__module__}.{base.__qualname__}") and not inspect.isabstract(base):
        return base  # which whoever opens the checkpoint has in hand
    if issubclass(base, (Optimizer, *Schedule)):
        found = optimisers_and_schedules().get(name)
    else:
        found = _part(name, base) or _activations().get(name) or _neighbour(name, owner)
    return found if found is not None and issubclass(found, base) else None


def may_be_named(cls: type, owner: type) -> bool:
    """Tells whether `find` finds a class that the constructor of `owner` was given."""
    path = import_path(cls)
    return cls in (_find(path, object, owner), optimisers_and_schedules().get(path))


def family_bases() -> tuple[type, ...]:
    """Returns the base classes of all families."""
    found = []
    for family in FAMILIES.values():
        module, _, base = family.base.rpartition(".")
        found.append(getattr(import_module(module), base))
    return tuple(found)


def extends_a_family(base: type) -> bool:
    """Tells whether what extends `base` may be a part."""
    return base is object or issubclass(base, family_bases())


def _part(name: str, base: type) -> type | None:
    model = family_bases()[0]  # is never a part of another one
    candidates: dict[type, None] = {}
    for family in family_bases():
        if issubclass(base, family) or (issubclass(family, base) and family is not model):
            candidates |= dict.fromkeys(cls for cls in _subclasses(family) if not inspect.isabstract(cls))
    candidates = {cls: None for cls in candidates if "<locals>" not in cls.__qualname__}
    exact = [cls for cls in candidates if name in (import_path(cls), f"{cls.__module__}.{cls.__qualname__}")]
    if exact:
        return exact[-1]  # the newest, if a module was imported twice
    short = [cls for cls in candidates if cls.__name__ == name and issubclass(cls, base)]
    return short[0] if len(short) == 1 else None


def _subclasses(base: type) -> Iterator[type]:
    cls: type
    for cls in (base, *base.__subclasses__()):
        yield cls
        if cls is not base:
            yield from _subclasses(cls)


@cache
def optimisers_and_schedules() -> dict[str, type]:
    """Returns those that may be named, by all their names."""
    found: dict[str, type] = {}
    for module, bases in (
        (torch.optim, (Optimizer,)),
        (torch.optim.lr_scheduler, Schedule),
        (optim, (Optimizer, *Schedule)),
    ):
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, bases) and not inspect.isabstract(cls):
                found |= {f"{module.__name__}.{cls.__name__}": cls, f"{cls.__module__}.{cls.__name__}": cls}
    for name in _OF_FUNCTIONS:
        del found[f"torch.optim.lr_scheduler.{name}"]
    found["lightning.pytorch.cli.ReduceLROnPlateau"] = import_module("lightning.pytorch.cli").ReduceLROnPlateau
    return found


@cache
def _activations() -> dict[str, type]:
    module = nn.modules.activation
    classes = {name: getattr(module, name) for name in module.__all__}
    return {f"{place}.{name}": cls for name, cls in classes.items() for place in ("torch.nn", module.__name__)}


def _neighbour(name: str, owner: type) -> type | None:
    """Returns a loaded class of the package of a foreign part, without `getattr`, at which a module may import."""
    package = owner.__module__.partition(".")[0]
    module, _, short = name.rpartition(".")
    if package in ("w2vlab", "torch", "lightning", "builtins") or module.partition(".")[0] != package:
        return None
    found = vars(sys.modules[module]).get(short) if module in sys.modules else None
    own = isinstance(found, type) and found.__module__.partition(".")[0] == package
    return found if own else None
