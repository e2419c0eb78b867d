"""The contract of every part of every family."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Literal, get_origin, get_type_hints

import pytest

from tests.contracts.tiny import SUPPLIED, all_parts, build, build_model, parameters
from w2vlab.registry import FAMILIES, import_path

PARTS = all_parts()
every_part = pytest.mark.parametrize(("family", "cls"), PARTS, ids=[cls.__name__ for _, cls in PARTS])


def test_every_family_has_parts() -> None:
    assert {family for family, _ in PARTS} == set(FAMILIES)


@every_part
def test_documented(family: str, cls: type) -> None:
    assert "__doc__" in vars(cls), "the docstring is the base's"
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    assert lines[0].endswith("."), "the first line is the summary that listings show"
    assert "Reference:" in lines
    assert lines[lines.index("Reference:") + 1].strip()
    arguments = set(parameters(cls))
    documented: set[str] = set()
    if "Args:" in lines:
        section = lines[lines.index("Args:") + 1 :]
        section = section[: section.index("")]
        documented = {match[1] for line in section if (match := re.match(r"^    (\w+): \S", line))}
    assert documented == arguments


@every_part
def test_required_arguments_are_the_widths_of_the_neighbours(family: str, cls: type) -> None:
    required = tuple(name for name, parameter in parameters(cls).items() if parameter.default is parameter.empty)
    assert required == tuple(SUPPLIED.get(family, ()))


@every_part
def test_typed(family: str, cls: type) -> None:
    for name, parameter in parameters(cls).items():
        assert parameter.annotation is not parameter.empty, f"`{name}` has no type, so YAML could hold anything"


@every_part
def test_an_unknown_choice_is_refused(family: str, cls: type) -> None:
    """From Python too, where a misspelt word would otherwise mean one of the others."""
    for name, hint in get_type_hints(cls.__init__).items():
        if get_origin(hint) is Literal:
            with pytest.raises(ValueError, match=f"`{name}` must be one of '.*, but is neither"):
                (build_model if family == "model" else build)(cls, **{name: "neither"})


@every_part
def test_has_a_stable_short_path(family: str, cls: type) -> None:
    package = FAMILIES[family].package
    if not cls.__module__.startswith("w2vlab."):
        return  # a plugin keeps its own
    assert cls.__name__ in importlib.import_module(package).__all__
    assert import_path(cls) == f"{package}.{cls.__name__}"


def test_short_names_are_unique_over_all_families() -> None:
    names = [cls.__name__ for _, cls in PARTS]
    assert len(names) == len(set(names))
