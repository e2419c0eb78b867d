"""Shortens the messages of jsonargparse to the key, the rule and the value."""

from __future__ import annotations

import importlib
import inspect
import re
from argparse import Action
from collections.abc import Sequence

from w2vlab.cli.errors.other_names import hint
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


_MAX_LISTED = 25
"""If there are more options than this, the message has only the nearest one."""


def known_options(actions: Sequence[Action], name: str) -> str:
    """Lists the options beside an unknown one, for `trainer.x` those of `trainer`, and the one that was probably meant.

    Args:
        actions: Options of the parser.
        name: The unknown one, without dashes.
    """
    options = [action.dest for action in actions if action.option_strings]
    options = [option for option in options if not re.search(r"help$|^print_", option)]
    group = name.rpartition(".")[0]
    siblings = [option for option in options if option.rpartition(".")[0] == group]
    if siblings and len(siblings) <= _MAX_LISTED:
        return known_names(name, siblings)
    if not siblings:  # the mistake is further to the left
        name, options = name.split(".")[0], [option.split(".")[0] for option in options]
    return (did_you_mean(name, options) or "`--help` lists the options.").strip()


def explain(message: str) -> str:
    """Returns a message in one or two lines.

    Args:
        message: Argument of `error()` of jsonargparse: the keys from the outside in, and every type that was tried.
    """
    # The base class of callbacks is not abstract, so jsonargparse tries it, too; it has no options.
    message = re.sub(r"\n *- Problem with given class_path 'lightning[\w.]*\.Callback':\n.*", "", message)
    key = _key(message)
    if found := re.search(r"Expected a dot import path string: (.+)", message):
        return _unknown_class(key, found[1], message[: found.start()])
    if found := re.search(r"Unable to load config '(.+?)'", message):
        key = key.split(".")[0]
        corpus = f" A corpus is given with --data.corpus={found[1]}." if key == "data" else ""
        return f"`{key}` must be a YAML file with its options, but is {found[1]}.{corpus}"
    if found := re.search(r"Expected '([\w.]+)' to be a subclass of <class '([\w.]+)'>", message):
        return f"`{key}` must be a {found[2].rpartition('.')[2]}, but is {found[1]}."
    if found := re.search(r"callable class: (.*(?:No module named|has no attribute).*?)\.? Got value: (\S+)", message):
        if found[2].endswith(_ENDINGS):
            return missing_file_message(found[2], f"`{key}`")
        return f"`{key}` must name something that can be imported, but is {found[2]}: {found[1]}."
    if found := re.search(r"Option '([\w.]+)' is not accepted \[(.*?)\]", message):
        return _refused_option(key, found[1], found[2], message)
    if found := re.search(r"arguments are required: (.*)", message):
        # The names start with the command, except for those in an entry of a mapping.
        missing = [f"{key}.{name}" if key else name.partition(".")[2] for name in found[1].split(", ")]
        which = f" {known_names('', part_classes('model'))}" if "model" in missing else ""
        return f"{' and '.join(f'`{name}`' for name in missing)} must be given, by a flag or in a --config.{which}"
    if found := re.search(r'Linked "(.+)" must be given via "(.+)"', message):
        return f"`{found[1]}` must not be given: it follows `{found[2]}`."
    if "Expected an import path or a subclass spec, but got None" in message:
        return f"`{key}` must be a class, but is null."
    if found := re.search(r"File does not exist: '(.+)'", message):
        return missing_file_message(found[1], f"`{key}`")
    return _wrong_type(key, message) or _shortened(key, message)


def _key(message: str) -> str:
    """Returns the name of an option as it is typed: the keys from the outside in, with the entry of a mapping."""
    before, mapping, after = message.partition("Subtypes: [dict[str, ")
    keys, rest = (re.findall(r'Parser key "([\w.]+)"', part) for part in (before, after))
    indent = re.search(r" *$", before)
    errors, _, value = after.partition(f"\n{indent[0] if indent else ''}Given value: ")
    required = re.search(r"arguments are required: (\w+)", errors)
    entry = re.match(r"NestedArg\(key='(\w+)|\{'(\w+)': (?:None|'[\w.]+')\}", value)
    if required:
        entry = re.search(rf"'(\w+)': Namespace\(class_path='[\w.]+', init_args=Namespace\({required[1]}=None", value)
    return ".".join([*keys, *([entry[entry.lastindex or 0]] if mapping and entry else []), *rest])


def _unknown_class(key: str, name: str, before: str) -> str:
    if ".LossTerm]" in before.rpartition("Parser key")[2]:
        return f"`{key}` must be a mapping with `loss`, but is {name}. Write {{loss: {name}}}."
    slot = key.rpartition(".")[2]
    if "/" in name or name.endswith(_ENDINGS):
        return missing_file_message(name, f"`{key}`")
    if any(slot in (family.name, family.plural) for family in FAMILIES.values()):
        return suggest(name, family_named(slot).name)
    # An option of another name may take parts, too, as `samplers` does; its type follows its key.
    types = before.rpartition("Parser key")[2]
    for family in FAMILIES.values():
        if family.base in types:
            return suggest(name, family.name)
    advice = (
        did_you_mean(name, _known_callbacks() if slot == "callbacks" else [])
        or f" Give its full import path, as in package.module.{name}."
    )
    return f"Unknown class '{name}' for `{key}`.{advice}"


def _known_callbacks() -> list[str]:
    from lightning.pytorch import callbacks as lightning_callbacks  # with PyTorch, which other messages do without

    from w2vlab import callbacks

    return [*callbacks.__all__, *lightning_callbacks.__all__]


def _refused_option(key: str, name: str, known: str, message: str) -> str:
    """Distinguishes a mistyped option from a width, which the constructor takes but the module supplies."""
    # The message of a part ends with the part; before that of a model or a callback is its name.
    before, _, after = message.partition("is not accepted [")
    part = re.match(r".*?\]\. Got value: Namespace\((class_path=.*|.* class_path='[\w.]+'\))", after)
    named = (
        re.findall(r"class_path='([\w.]+)'", part[1]) if part else re.findall(r"given class_path '([\w.]+)'", before)
    )
    owner = named[0] if part and part[1].startswith("class_path=") else named[-1]
    module, _, owner = owner.rpartition(".")
    outer = name.partition(".")[0]
    if outer in inspect.signature(getattr(importlib.import_module(module), owner)).parameters:
        return f"`{key}.{outer}` must not be given: it follows from the neighbouring parts. Leave it out."
    return f"`{key}` has no option '{name}', as {owner} takes none of that name. {hint(f'{key}.{name}') or known}"


def _wrong_type(key: str, message: str) -> str | None:
    # A union lists its types before the value; the innermost union starts last.
    single = re.search(r"Expected an? (\S.*?)\. Got value: (.*?)(?:\. Got value: .*)?$", message, re.MULTILINE)
    union = re.search(r".*Subtypes: \[(.*?)\]\n.*?Given value: (.*?)$", message, re.DOTALL | re.MULTILINE)
    found = single or union
    if not found:
        return None
    # YAML takes these words for true and false.
    value = found[2].partition(". Got value: Namespace(")[0]  # and then the part that has the option
    advice = " Put quotation marks around it in YAML." if value in ("True", "False") and "'off'" in found[1] else ""
    if found[1].startswith("list[") and re.fullmatch(r"[A-Z][\w.]*", value):  # the name of a part
        advice = f" One is appended with --{key}+={value}."
    return f"`{key}` must be {_rule(found[1])}, but is {value}.{advice}"


def _rule(types: str) -> str:
    """Returns the rule for a value: `one of 'a', 'b' or null` for `typing.Literal['a', 'b'], <class 'NoneType'>`."""
    choices = re.match(r"typing\.Literal\[([^]]*)\](?:, |$)", types)
    others = _readable(types[choices.end() :] if choices else types)
    null = others.endswith("NoneType")
    others = others.removesuffix("NoneType").removesuffix(", ")
    rules = []
    if choices:
        rules.append(f"one of {choices[1]}" if "," in choices[1] else choices[1])
    if others:
        rules.append(f"of type {others}")
    return " or ".join([*rules, *(["null"] if null else [])])


def _readable(types: str) -> str:
    """Leaves the bare names: `int` for `<class 'int'>`, `Literal['a']` for `typing.Literal['a']`."""
    names = re.sub(r"<class '([\w.]+)'>", r"\1", types)
    return re.sub(r"(?:\w+\.)+(\w+)", r"\1", names)


def _shortened(key: str, message: str) -> str:
    lines = [line.strip(" -") for line in message.splitlines()]
    kept = " ".join(line for line in lines if not line.startswith(_NOISE))
    return f"`{key}`: {kept.strip()}" if key else kept
