"""Builds a model from the configuration in a checkpoint, which may come from an untrusted source.

A configuration names classes (`class_path`) with their arguments (`init_args`). A class is accepted only if
`allowed.find_class` resolves it and the constructor has an argument for it. All other values are plain data, which is
never interpreted as a name or a file. Parts are passed as factories. Optimizers and schedules are not built here: one
that is not allowed is replaced by a factory that raises when training starts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

from torch.optim import Optimizer

from w2vlab.modules.checkpoints.allowed import Schedule, family_bases, find_class
from w2vlab.modules.checkpoints.bounds import bounded_model
from w2vlab.modules.checkpoints.constructors import (
    REQUIRED,
    UNTYPED,
    Argument,
    Slot,
    TypeMismatchError,
    accepts_any_keyword,
    constructor_arguments,
    convert,
    element_hint,
    slots,
    type_rule,
)
from w2vlab.modules.checkpoints.initial_weights import without_warm_start
from w2vlab.modules.checkpoints.plain import printable
from w2vlab.modules.checkpoints.recording import plain_default, record
from w2vlab.registry import FAMILIES, known_names, part_classes

_KEYS = {"class_path", "init_args", "dict_kwargs"}


def build_model(config: Any, base: type, source: object, overrides: Mapping[str, Any] | None = None) -> Any:
    """Builds a model from its configuration; its weights are new, without the warm start of the configuration.

    Args:
        config: Configuration of the model, as returned by `saved_config`: `class_path` and `init_args`.
        base: Class that the model must extend.
        source: Path of the checkpoint, for errors.
        overrides: Arguments of the constructor that override the saved ones.

    Returns:
        The model.

    Raises:
        ValueError: The configuration names a class that is not allowed, the constructor rejects an argument, or the
            model does not fit into memory.
    """
    builder = _Builder(source)
    cls = builder.class_of(config, Slot("instance", base), "model", base)
    saved = {name: value for name, value in _arguments(config).items() if name not in (overrides or {})}
    with without_warm_start(), bounded_model():
        return builder.call(cls, {**builder.arguments(cls, saved, "model"), **(overrides or {})}, "model")


def resolve_class(config: Any, base: type, source: object, place: str = "model") -> Any:
    """Resolves the class that a configuration names.

    Args:
        config: Configuration of a model or a part.
        base: Class that the result must extend.
        source: Path of the checkpoint, for errors.
        place: Dotted path of the part in the checkpoint, for errors.

    Raises:
        ValueError: The class is not allowed.
    """
    return _Builder(source).class_of(config, Slot("instance", base), place, base)


def fill_defaults(config: dict[str, Any], base: type, source: object, exclude: tuple[str, ...] = ()) -> dict[str, Any]:
    """Fills in the defaults of this version, so that a version with other defaults builds the same model.

    Args:
        config: Configuration of the model.
        base: Class that the model must extend.
        source: Path of the checkpoint, for errors.
        exclude: Arguments to remove.

    Returns:
        The configuration with all arguments.

    Raises:
        ValueError: The configuration names a class that is not allowed.
    """
    cls = resolve_class(config, base, source)
    saved = {name: value for name, value in _arguments(config).items() if name not in exclude}
    recorded = record(cls, (), _Builder(source).arguments(cls, saved, "model"))
    if recorded is None or recorded.missing:  # a third-party model with positional arguments
        return {"class_path": config["class_path"], "init_args": saved}
    for name in exclude:
        recorded.config["init_args"].pop(name, None)
    return recorded.config


def convert_options(cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Converts options to the types that the constructor of `cls` declares.

    Args:
        cls: Class of the part.
        options: Options by name; each must be an argument of the constructor.

    Returns:
        The converted options.

    Raises:
        ValueError: An option has the wrong type.
    """
    known = constructor_arguments(cls)
    try:
        return {name: convert(value, known[name].hint) for name, value in options.items()}
    except TypeMismatchError:
        wrong = [name for name, value in options.items() if not _is_convertible(value, known[name].hint)]
        raise ValueError(
            "; ".join(f"`{name}` must be {type_rule(known[name].hint)}, but is {options[name]!r}" for name in wrong)
        ) from None


def _is_convertible(value: Any, hint: Any) -> bool:
    try:
        convert(value, hint)
    except TypeMismatchError:
        return False
    return True


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {**(node.get("init_args") or {}), **(node.get("dict_kwargs") or {})}


class _Builder:
    def __init__(self, source: object) -> None:
        self._source = source

    def class_of(self, node: Any, slot: Slot, place: str, owner: type) -> Any:
        """Resolves the class of a node of the configuration."""
        name = node.get("class_path") if isinstance(node, dict) else None
        mappings = isinstance(node, dict) and all(
            isinstance(node.get(key) or {}, dict) for key in _KEYS - {"class_path"}
        )
        if not isinstance(name, str) or not mappings or node.keys() - _KEYS:
            raise ValueError(
                f"`{place}` of {self._source} must be a mapping with `class_path` and `init_args`, but is not."
            )
        cls = find_class(name, slot.base, owner)
        if cls is None:
            self._raise_not_allowed(name, slot, place)
        return cls

    def arguments(self, cls: type, saved: Mapping[str, Any], place: str) -> dict[str, Any]:
        """Converts the saved arguments of a constructor."""
        known = constructor_arguments(cls)
        found: dict[str, Any] = {}
        for name, value in saved.items():
            inner = f"{place}.{printable(name)}"
            if name not in known and accepts_any_keyword(cls):
                known[name] = Argument(UNTYPED, REQUIRED)
            if name not in known:
                raise ValueError(f"`{inner}` of {self._source} must be an option of {cls.__name__}, but is not.")
            if _is_training_only(known[name]):
                found[name] = self._training_factory(value, known[name], inner, cls)
            elif not _is_default(value, known[name], cls):
                found[name] = self._value(value, known[name].hint, inner, cls)
        return found

    def call(self, cls: Callable[..., Any], arguments: Mapping[str, Any], place: str) -> Any:
        """Calls a constructor."""
        try:
            return cls(**arguments)
        except Exception as problem:  # a constructor may raise any exception
            kind = "" if isinstance(problem, ValueError) else f"{type(problem).__name__}: "
            why = printable(" ".join(str(problem).split()), 1000)
            raise ValueError(f"`{place}` of {self._source} cannot be built: {kind}{why}") from problem

    def _value(self, value: Any, hint: Any, place: str, owner: type) -> Any:
        kinds = list(slots(hint))
        if isinstance(value, dict) and "class_path" in value:
            return self._build_part(value, kinds, place, owner)
        if isinstance(value, str) and kinds and not _is_plain_text(value, hint):
            return self._build_part({"class_path": value}, kinds, place, owner)
        if isinstance(value, dict):
            value = {
                n: self._value(v, element_hint(hint, n), f"{place}.{printable(n)}", owner) for n, v in value.items()
            }
        elif isinstance(value, list | tuple):
            value = [self._value(v, element_hint(hint, n), f"{place}.{n}", owner) for n, v in enumerate(value)]
        try:
            return convert(value, hint)
        except TypeMismatchError:
            raise ValueError(
                f"`{place}` of {self._source} must be {type_rule(hint)}, but is {printable(value)}."
            ) from None

    def _build_part(self, node: dict[str, Any], kinds: list[Slot], place: str, owner: type) -> Any:
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
            f"`{place}` of {self._source} must be plain data, but is {printable(node['class_path'])}."
        )

    def _training_factory(self, value: Any, argument: Argument, place: str, owner: type) -> Any:
        try:
            return self._value(value, argument.hint, place, owner)
        except ValueError as problem:
            return _UnavailableFactory(f"{problem} Training needs it: set it in the model.")

    def _raise_not_allowed(self, name: str, slot: Slot, place: str) -> NoReturn:
        where, what = f"`{place}` of {self._source}", printable(name)
        if "<" in name:
            _, _, part = place.partition(".")
            how = f"load_from_checkpoint(…, {part.split('.')[0]}=…)" if part else "ITS_CLASS.load_from_checkpoint(…)"
            raise ValueError(
                f"{where} must be passed as an argument, {how}: {what} is a function or a local class, of which a "
                "checkpoint saves only the name."
            )
        if issubclass(slot.base, (Optimizer, *Schedule)):
            raise ValueError(f"{where} must be a class of torch.optim or w2vlab.optim, but is {what}.")
        module, _, short = name.rpartition(".")
        if name.isidentifier() or not _is_installable(name):
            families = [
                name for name, base in zip(FAMILIES, family_bases(), strict=True) if issubclass(slot.base, base)
            ]
            known = f" {known_names(short, part_classes(families[0]))}" if families else ""
            raise ValueError(f"{where} must be a {slot.base.__name__} of w2vlab, but is {what}.{known}")
        if module in sys.modules:
            raise ValueError(f"{where} must be a class that extends {slot.base.__name__}, but is {what}.")
        raise ValueError(
            f"{where} must be a loaded part, but is {what}, and opening a checkpoint imports nothing. If you trust its "
            f"code, install its package, or load its module with --parts={module} (in Python, import it)."
        )


class _UnavailableFactory:
    """Replaces an optimizer or a schedule that is not allowed; raises when it is called."""

    def __init__(self, why: str) -> None:
        self.why = why

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise ValueError(self.why)


def _is_installable(name: str) -> bool:
    """Returns whether a dotted path may be in a third-party package."""
    pieces = name.split(".")
    ours = ("w2vlab", "torch", "lightning")
    return all(map(str.isidentifier, pieces)) and pieces[0] not in sys.stdlib_module_names and pieces[0] not in ours


def _is_training_only(argument: Argument) -> bool:
    return any(issubclass(slot.base, (Optimizer, *Schedule)) for slot in slots(argument.hint))


def _is_default(value: Any, argument: Argument, cls: type) -> bool:
    """Returns whether a value is the default of the constructor; defaults need not be allowed classes."""
    if argument.default is REQUIRED:
        return False
    try:
        default = plain_default(argument.default, cls)
    except ValueError:
        named = argument.default
        default = f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', '')}"
        return bool(value == default or value == {"class_path": default})
    return type(value) is type(default) and bool(value == default)


def _is_plain_text(value: str, hint: Any) -> bool:
    if any(slot.base is object for slot in slots(hint)):
        return True  # untyped: a string stays a string
    return _is_convertible(value, hint)
