"""Building a model from the configuration in a checkpoint, which may come from anybody.

A configuration names classes (`class_path`) with their arguments (`init_args`). Only classes that `allowed.find` finds
are taken, and only where the constructor wants one of them; all else is plain data, which is never read as a name or a
file. Parts are handed on as factories. An optimiser or a schedule is not built here: what may not be named is replaced
by a factory that says so when somebody trains.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

from torch.optim import Optimizer

from w2vlab.modules.checkpoints.allowed import Schedule, family_bases, find
from w2vlab.modules.checkpoints.constructors import (
    REQUIRED,
    UNTYPED,
    Argument,
    Misfit,
    Slot,
    arguments_of,
    element_hint,
    fitted,
    rule_of,
    slots,
    takes_any_name,
)
from w2vlab.modules.checkpoints.plain import shown
from w2vlab.modules.checkpoints.recording import default_of, record
from w2vlab.registry import FAMILIES, known_names, part_classes

_KEYS = {"class_path", "init_args", "dict_kwargs"}


def build_model(config: Any, base: type, source: object, given: Mapping[str, Any] | None = None) -> Any:
    """Builds a model.

    Args:
        config: What is saved of it: `class_path` and `init_args`, as `saved_config` returned it.
        base: What it must extend.
        source: Where it was saved, for errors.
        given: Arguments that count in place of the saved ones, as the constructor takes them.

    Raises:
        ValueError: It names what may not be built, or the constructor does not take what is saved.
    """
    builder = _Builder(source)
    cls = builder.class_of(config, Slot("instance", base), "model", base)
    saved = {name: value for name, value in _arguments(config).items() if name not in (given or {})}
    return builder.call(cls, {**builder.arguments(cls, saved, "model"), **(given or {})}, "model")


def class_named(config: Any, base: type, source: object, place: str = "model") -> Any:
    """Returns the class that a saved part is of.

    Raises:
        ValueError: It may not be built.
    """
    return _Builder(source).class_of(config, Slot("instance", base), place, base)


def completed(config: dict[str, Any], base: type, source: object, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns a saved model with every default of this version filled in, so that it means the same in another one.

    Args:
        config: What is saved of it.
        base: What it must extend.
        source: Where it was saved, for errors.
        leave_out: Its arguments that are not wanted.

    Raises:
        ValueError: It names what may not be built.
    """
    cls = class_named(config, base, source)
    saved = {name: value for name, value in _arguments(config).items() if name not in leave_out}
    recorded = record(cls, (), _Builder(source).arguments(cls, saved, "model"))
    if recorded is None or recorded.missing:  # a foreign part that takes what has no name
        return {"class_path": config["class_path"], "init_args": saved}
    for name in leave_out:
        recorded.config["init_args"].pop(name, None)
    return recorded.config


def options_that_fit(cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options of a part as its constructor takes them.

    Raises:
        ValueError: A value is of another type.
    """
    known = arguments_of(cls)
    try:
        return {name: fitted(value, known[name].hint) for name, value in options.items()}
    except Misfit:
        wrong = [name for name, value in options.items() if not _fits(value, known[name].hint)]
        raise ValueError(
            "; ".join(f"`{name}` must be {rule_of(known[name].hint)}, but is {options[name]!r}" for name in wrong)
        ) from None


def _fits(value: Any, hint: Any) -> bool:
    try:
        fitted(value, hint)
    except Misfit:
        return False
    return True


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {**(node.get("init_args") or {}), **(node.get("dict_kwargs") or {})}


class _Builder:
    def __init__(self, source: object) -> None:
        self._source = source

    def class_of(self, node: Any, slot: Slot, place: str, owner: type) -> Any:
        """Returns the class of a node, by its name alone."""
        name = node.get("class_path") if isinstance(node, dict) else None
        mappings = isinstance(node, dict) and all(
            isinstance(node.get(key) or {}, dict) for key in _KEYS - {"class_path"}
        )
        if not isinstance(name, str) or not mappings or node.keys() - _KEYS:
            raise ValueError(f"`{place}` of {self._source} must be a `class_path` with its `init_args`, but is not.")
        cls = find(name, slot.base, owner)
        if cls is None:
            self._refuse(name, slot, place)
        return cls

    def arguments(self, cls: type, saved: Mapping[str, Any], place: str) -> dict[str, Any]:
        """Returns the arguments of a constructor."""
        known = arguments_of(cls)
        found: dict[str, Any] = {}
        for name, value in saved.items():
            inner = f"{place}.{shown(name)}"
            if name not in known and takes_any_name(cls):
                known[name] = Argument(UNTYPED, REQUIRED)
            if name not in known:
                raise ValueError(
                    f"`{inner}` of {self._source} must be an option of {cls.__name__}, which has none such."
                )
            if _trains(known[name]):
                found[name] = self._for_training(value, known[name], inner, cls)
            elif not _is_default(value, known[name], cls):
                found[name] = self._value(value, known[name].hint, inner, cls)
        return found

    def call(self, cls: Callable[..., Any], arguments: Mapping[str, Any], place: str) -> Any:
        """Calls a constructor."""
        try:
            return cls(**arguments)
        except Exception as problem:  # a constructor may fail in any way at what it is given
            kind = "" if isinstance(problem, ValueError) else f"{type(problem).__name__}: "
            why = shown(" ".join(str(problem).split()), 1000)
            raise ValueError(f"`{place}` of {self._source} cannot be built: {kind}{why}") from problem

    def _value(self, value: Any, hint: Any, place: str, owner: type) -> Any:
        kinds = list(slots(hint))
        if isinstance(value, dict) and "class_path" in value:
            return self._part(value, kinds, place, owner)
        if isinstance(value, str) and kinds and not _fits_as_text(value, hint):
            return self._part({"class_path": value}, kinds, place, owner)
        if isinstance(value, dict):
            value = {n: self._value(v, element_hint(hint, n), f"{place}.{shown(n)}", owner) for n, v in value.items()}
        elif isinstance(value, list | tuple):
            value = [self._value(v, element_hint(hint, n), f"{place}.{n}", owner) for n, v in enumerate(value)]
        try:
            return fitted(value, hint)
        except Misfit:
            raise ValueError(f"`{place}` of {self._source} must be {rule_of(hint)}, but is {shown(value)}.") from None

    def _part(self, node: dict[str, Any], kinds: list[Slot], place: str, owner: type) -> Any:
        refusal: ValueError | None = None
        for slot in kinds:
            try:
                cls = self.class_of(node, slot, place, owner)
            except ValueError as problem:
                refusal = problem
                continue
            arguments = self.arguments(cls, _arguments(node), place)
            if slot.kind == "instance":
                return self.call(cls, arguments, place)
            return partial(cls, **arguments) if arguments else cls
        raise refusal or ValueError(
            f"`{place}` of {self._source} must be plain data, but is {shown(node['class_path'])}."
        )

    def _for_training(self, value: Any, argument: Argument, place: str, owner: type) -> Any:
        try:
            return self._value(value, argument.hint, place, owner)
        except ValueError as problem:
            return _Unavailable(f"{problem} Without it there is nothing to train with: set it in the model.")

    def _refuse(self, name: str, slot: Slot, place: str) -> NoReturn:
        where, what = f"`{place}` of {self._source}", shown(name)
        if "<" in name:
            _, _, part = place.partition(".")
            how = f"load_from_checkpoint(…, {part.split('.')[0]}=…)" if part else "ITS_CLASS.load_from_checkpoint(…)"
            raise ValueError(
                f"{where} must be given, as in {how}: {what} is a function or a local class, of which a checkpoint "
                "holds no more than the name."
            )
        if issubclass(slot.base, (Optimizer, *Schedule)):
            raise ValueError(f"{where} must be a class of torch.optim or w2vlab.optim, but is {what}.")
        module, _, short = name.rpartition(".")
        if name.isidentifier() or not _is_foreign(name):
            families = [
                name for name, base in zip(FAMILIES, family_bases(), strict=True) if issubclass(slot.base, base)
            ]
            known = f" {known_names(short, part_classes(families[0]))}" if families else ""
            raise ValueError(f"{where} must be a {slot.base.__name__} that w2vlab has, but is {what}.{known}")
        if module in sys.modules:
            raise ValueError(f"{where} must be a class that extends {slot.base.__name__}, but {what} does not.")
        raise ValueError(
            f"{where} must be a part that is known here, but is {what}, and a checkpoint imports nothing. If you trust "
            f"that code, install the package that has it, or name its module: --parts={module} (in Python, import it)."
        )


class _Unavailable:
    """Stands for an optimiser or a schedule that a checkpoint may not name."""

    def __init__(self, why: str) -> None:
        self.why = why

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise ValueError(self.why)


def _is_foreign(name: str) -> bool:
    """Tells whether a name may be that of a package which somebody can install."""
    pieces = name.split(".")
    ours = ("w2vlab", "torch", "lightning")
    return all(map(str.isidentifier, pieces)) and pieces[0] not in sys.stdlib_module_names and pieces[0] not in ours


def _trains(argument: Argument) -> bool:
    return any(issubclass(slot.base, (Optimizer, *Schedule)) for slot in slots(argument.hint))


def _is_default(value: Any, argument: Argument, cls: type) -> bool:
    """Tells whether a value is the constructor's own default, which may then be what nobody else could name."""
    if argument.default is REQUIRED:
        return False
    try:
        default = default_of(argument.default, cls)
    except ValueError:
        named = argument.default
        default = f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', '')}"
        return bool(value == default or value == {"class_path": default})
    return type(value) is type(default) and bool(value == default)


def _fits_as_text(value: str, hint: Any) -> bool:
    if any(slot.base is object for slot in slots(hint)):
        return True  # untyped: a text is a text
    return _fits(value, hint)
