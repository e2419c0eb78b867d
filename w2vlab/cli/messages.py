"""Boils the messages of jsonargparse down to the key, the rule and the value."""

from __future__ import annotations

import importlib
import inspect
import re

from lightning.pytorch import callbacks as lightning_callbacks

from w2vlab import callbacks
from w2vlab.cli.other_names import hint
from w2vlab.recipes import missing_file_message
from w2vlab.registry import FAMILIES, did_you_mean, family_named, known_names, part_classes, suggest

_ENDINGS = (".yaml", ".yml")

_NOISE = (
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value",
    "Expected a path but",
    "Parser key",
    "Problem with",
)


def explain(message: str) -> str:
    """Says what is wrong in one or two lines.

    Args:
        message: What jsonargparse passes to `error()`: the keys from the outside in, and every type that was tried.
    """
    # A callback's base class is not abstract, so it is tried too, and takes no options.
    message = re.sub(r"\n *- Problem with given class_path 'lightning[\w.]*\.Callback':\n.*", "", message)
    key = ".".join(re.findall(r'Parser key "([\w.]+)"', message))
    if found := re.search(r"Expected a dot import path string: (.+)", message):
        return _unknown_class(key, found[1])
    if found := re.search(r"Expected '([\w.]+)' to be a subclass of <class '([\w.]+)'>", message):
        return f"`{key}` must be a {found[2].rpartition('.')[2]}, but is {found[1]}."
    if found := re.search(r"callable class: (.*(?:No module named|has no attribute).*?)\.? Got value: (\S+)", message):
        if found[2].endswith(_ENDINGS):
            return missing_file_message(found[2], f"`{key}`")
        return f"`{key}` must name something that can be imported, but is {found[2]}: {found[1]}."
    if found := re.search(r"Option '([\w.]+)' is not accepted \[(.*?)\]", message):
        return _refused_option(key, found[1], found[2], message)
    if found := re.search(r"arguments are required: (.*)", message):
        missing = [name.partition(".")[2] for name in found[1].split(", ")]  # they begin with the command
        which = f" {known_names('', part_classes('model'))}" if "model" in missing else ""
        return f"{' and '.join(f'`{name}`' for name in missing)} must be given, by a flag or in a --config.{which}"
    if found := re.search(r'Linked "(.+)" must be given via "(.+)"', message):
        return f"`{found[1]}` must not be given: it follows `{found[2]}`."
    if found := re.search(r"File does not exist: '(.+)'", message):
        return missing_file_message(found[1], f"`{key}`")
    return _wrong_type(key, message) or _shortened(key, message)


def _unknown_class(key: str, name: str) -> str:
    slot = key.rpartition(".")[2]
    if "/" in name or name.endswith(_ENDINGS):
        return missing_file_message(name, f"`{key}`")
    if any(slot in (family.name, family.plural) for family in FAMILIES.values()):
        return suggest(name, family_named(slot).name)
    known = [*callbacks.__all__, *lightning_callbacks.__all__] if slot == "callbacks" else []
    advice = did_you_mean(name, known) or f" Give its full import path, as in package.module.{name}."
    return f"Unknown class '{name}' for `{key}`.{advice}"


def _refused_option(key: str, name: str, known: str, message: str) -> str:
    """Tells a mistyped option from a width, which the constructor does take but somebody else fills in."""
    # A part is named behind its message, the model that it is for before it.
    owners = re.findall(r"Got value: Namespace\(class_path='([\w.]+)'|given class_path '([\w.]+)'", message)
    module, _, owner = (owners[-1][0] or owners[-1][1]).rpartition(".")
    if name in inspect.signature(getattr(importlib.import_module(module), owner)).parameters:
        return f"`{key}.{name}` must not be given: it follows from the neighbouring parts. Leave it out."
    return f"`{key}` has no option '{name}', as {owner} takes none of that name. {hint(f'{key}.{name}') or known}"


def _wrong_type(key: str, message: str) -> str | None:
    # What a union tried comes before the value that it was given; the innermost union is the last to begin.
    single = re.search(r"Expected an? (\S.*?)\. Got value: (.*?)(?:\. Got value: .*)?$", message, re.MULTILINE)
    union = re.search(r".*Subtypes: \[(.*?)\]\n.*?Given value: (.*?)$", message, re.DOTALL | re.MULTILINE)
    found = single or union
    if not found:
        return None
    choices = re.fullmatch(r"typing\.Literal\[(.*)\]", found[1])
    rule = f"one of {choices[1]}" if choices else f"of type {_readable(found[1])}"
    return f"`{key}` must be {rule}, but is {found[2]}."


def _readable(types: str) -> str:
    """Leaves the bare names: `int` for `<class 'int'>`, `Literal['a']` for `typing.Literal['a']`."""
    names = re.sub(r"<class '([\w.]+)'>", r"\1", types)
    return re.sub(r"(?:\w+\.)+(\w+)", r"\1", names).replace(", NoneType", " or null")


def _shortened(key: str, message: str) -> str:
    lines = [line.strip(" -") for line in message.splitlines()]
    kept = " ".join(line for line in lines if not line.startswith(_NOISE))
    return f"`{key}`: {kept.strip()}" if key else kept
