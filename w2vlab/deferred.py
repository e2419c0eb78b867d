"""Packages that a run imports without using them: their code is executed when something is asked of it.

Lightning imports all of torchmetrics, and with it matplotlib and SciPy where they are installed, for two classes.
Lightning and every optimiser of PyTorch import the compiler, `torch._dynamo`, to ask whether something is compiled, and
`torch.autograd.grad` imports SymPy, to compare shapes that may be symbols; PyTorch itself imports its exporter.
Weights & Biases imports its launcher of jobs to see that there is none. Together they take longer than PyTorch itself.

This file has them imported under their own names, by their own loaders, and only their code waits. What is asked for on
the way of a run that compiles nothing and draws nothing has an answer here; for anything else the code is executed at
once, in the same module, and from then on nothing differs from an ordinary import.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType
from typing import Any

Answers = Mapping[str, Callable[[], Any]]
"""What is known of a package while its code waits: makes the value of each name."""

_COMPILER = "torch._dynamo"
_EXPORT = "torch.export"
_SHAPES = "torch.fx.experimental.symbolic_shapes"
_UTILITIES = "torchmetrics.utilities"
_PLOT = "torchmetrics.utilities.plot"
_lock = threading.RLock()


def defer_unused_packages() -> None:
    """Has the code of the packages wait that are imported from now on; to be called before PyTorch is imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def is_waiting(name: str) -> bool:
    """Tells whether the code of a module has yet to be executed."""
    return isinstance(sys.modules.get(name), _Waiting)


class _Waiting(ModuleType):
    """A module that is imported and whose code has not been executed."""

    def __getattr__(self, name: str) -> Any:
        """Answers for the code, or executes it: only names that are not in the module come here."""
        answer = _ANSWERS[self.__name__].get(name)
        if answer is not None:
            return answer()
        if name.startswith("__") and name != "__all__":  # many look for such a name in every module that there is
            raise AttributeError(name)
        _execute(self)
        return getattr(self, name)


def _execute(module: ModuleType) -> None:
    with _lock:
        if not is_waiting(module.__name__):
            return  # another thread has done it, or does it further up in this one
        loader = module.__loader__
        assert isinstance(loader, _Later)
        module.__class__ = ModuleType
        _set_loader(module, loader.loader)
        try:
            loader.loader.exec_module(module)
        except BaseException:
            module.__class__ = _Waiting  # or half of it would pass for the whole
            _set_loader(module, loader)
            raise


def _set_loader(module: ModuleType, loader: Loader) -> None:
    module.__loader__ = loader
    if module.__spec__ is not None:
        module.__spec__.loader = loader


class _Later(Loader):
    """Makes a module as its own loader would, and leaves its code for later."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _Waiting


class _Present(Loader):
    """Loads nothing: the module came with the code of its package."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__spec__"] = self.spec  # some modules have attributes of their own making


class _Finder(MetaPathFinder):
    """Finds the modules whose code waits; all others are left to those behind it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name in _ANSWERS:
            spec = PathFinder.find_spec(name, path)
            if spec is not None and spec.loader is not None:
                spec.loader = _Later(spec.loader)
            return spec
        package = next((package for package in (_COMPILER, _EXPORT) if name.startswith(f"{package}.")), None)
        if package is not None and is_waiting(package):
            _real(package, "__name__")  # its modules need each other in the order in which it imports them
        elif name.startswith("torchmetrics.") and not name.startswith(("torchmetrics.__", _UTILITIES)):
            importlib.import_module(_UTILITIES)  # and those of torchmetrics, these first
        module = sys.modules.get(name)
        if module is None:
            return None
        spec = ModuleSpec(name, _Present(module))
        vars(module)["__spec__"] = spec  # Python takes this one, of a module that has come by the way
        return spec


class _KindOfOptimizedModule(type):
    def __instancecheck__(cls, instance: object) -> bool:
        if is_waiting(_COMPILER):
            return False  # nothing has been compiled
        return isinstance(instance, sys.modules[_COMPILER].OptimizedModule)


class _OptimizedModule(metaclass=_KindOfOptimizedModule):
    """For `isinstance` alone: a compiled module."""


def _disable(function: Any = None, recursive: bool = True, **options: Any) -> Any:
    """Does as `torch._dynamo.disable`, which it calls as soon as the compiler is there."""
    if function is None:
        return functools.partial(_disable, recursive=recursive, **options)
    if not isinstance(function, FunctionType):
        return _real(_COMPILER, "disable")(function, recursive, **options)
    disabled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if is_waiting(_COMPILER):
            return function(*args, **kwargs)
        if disabled is None:
            disabled = _real(_COMPILER, "disable")(function, recursive, **options)
        return disabled(*args, **kwargs)

    # What the compiler reads before it traces a function.
    for name, value in {
        "_torchdynamo_disable": True,
        "_torchdynamo_disable_msg": options.get("reason"),
        "_torchdynamo_disable_recursive": recursive,
        "_torchdynamo_orig_callable": function,
        "_torchdynamo_wrapper_id": id(run),
    }.items():
        setattr(run, name, value)
    return run


def _break_graph(*args: Any, **kwargs: Any) -> None:
    """Does as `torch._dynamo.graph_break` outside of a graph: nothing."""


def _are_equal(first: Any, second: Any) -> Any:
    if all(type(size) is int for size in (*first, *second)):
        return tuple(first) == tuple(second)
    return _real(_SHAPES, "sym_eq")(first, second)


def _expect_true(value: Any) -> Any:
    return value if type(value) is bool else _real(_SHAPES, "expect_true")(value)


def _plot(*args: Any, **kwargs: Any) -> Any:
    return _real(_PLOT, "plot_single_or_multi_val")(*args, **kwargs)


def _real(module: str, name: str) -> Any:
    """Returns what the code of a module defines, and executes that if it waits."""
    found = importlib.import_module(module)
    if isinstance(found, _Waiting):
        _execute(found)
    return getattr(found, name)


def _of(module: str, name: str) -> Callable[[], Any]:
    return lambda: getattr(importlib.import_module(module), name)


_ANSWERS: dict[str, Answers] = {
    _COMPILER: {
        "OptimizedModule": lambda: _OptimizedModule,
        "disable": lambda: _disable,
        "graph_break": lambda: _break_graph,
    },
    # With SymPy; of it, `torch.autograd.grad` needs these.
    _SHAPES: {"sym_eq": lambda: _are_equal, "expect_true": lambda: _expect_true},
    _EXPORT: {},
    "torchmetrics": {
        "__version__": _of("torchmetrics.__about__", "__version__"),
        "_logger": lambda: logging.getLogger("torchmetrics"),
        "Metric": _of("torchmetrics.metric", "Metric"),
        "MetricCollection": _of("torchmetrics.collections", "MetricCollection"),
    },
    # Looks into one file of it, which needs nothing of the others.
    "wandb.sdk.launch": {},
    # Of its names, the others are types that stand in annotations alone.
    _PLOT: {
        "_AX_TYPE": lambda: Any,
        "_PLOT_OUT_TYPE": lambda: Any,
        "plot_single_or_multi_val": lambda: _plot,
    },
}
