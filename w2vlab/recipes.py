"""The recipes: YAML files of `configs/`, which are installed with the package and found by name.

A name is the path below `configs/` without its suffix: `quickstart`, `quantizer/ema`. `configs/quantizer/ema.yaml` and
`quantizer/ema.yaml` are equivalent. An existing file at the path as typed takes precedence.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ENDING = ".yaml"

_FOLDER = "configs"

RUN_FOLDERS = ("", "finetune", "trainer", "ablations")
"""Folders of the files for `--config`, in which a recipe is found by the last part of its name."""

SWEEP_FOLDERS = ("sweeps",)
"""Folders of the files for `w2vlab sweep`."""


@cache
def recipe_folder() -> Path:
    """Returns the folder of the recipes: in the package, or next to it in a git clone.

    Raises:
        ValueError: The folder does not exist, because the installation is broken.
    """
    package = Path(__file__).parent
    if (installed := package / _FOLDER).is_dir():
        return installed
    clone = package.parent
    # `pyproject.toml` shows that it is a clone; next to an installed package, `configs` may belong to another one.
    if (clone / "pyproject.toml").is_file() and (clone / _FOLDER).is_dir():
        return clone / _FOLDER
    raise ValueError(f"This installation of w2vlab lacks its recipes: {installed} does not exist. Install it again.")


@cache
def recipe_names() -> tuple[str, ...]:
    """Returns the names of all recipes, those outside of subfolders first."""
    root = recipe_folder()
    names = [path.relative_to(root).with_suffix("").as_posix() for path in root.rglob(f"*{ENDING}")]
    return tuple(sorted(names, key=lambda name: ("/" in name, name)))


def recipe_path(name: str) -> Path:
    """Returns the path of a recipe with a name of `recipe_names`."""
    return recipe_folder() / f"{name}{ENDING}"


def find_recipe(text: str, folders: Sequence[str] | None = ()) -> str | None:
    """Returns the name of the recipe that `text` refers to; None if it is not a recipe.

    Args:
        text: A name or path, as typed.
        folders: Folders in which a recipe is found by the last part of its name; None for all folders.

    Raises:
        ValueError: `text` is ambiguous.
    """
    name = _plain(text)
    names = recipe_names()
    if name in names:
        return name
    matches = [known for known in names if _in(known, folders) and known.rpartition("/")[2] == name]
    if len(matches) > 1:
        raise ValueError(f"'{text}' could be any of the recipes {', '.join(matches)}: give the full name.")
    return matches[0] if matches else None


def find_file(text: str, label: str, folders: Sequence[str] | None = ()) -> Path:
    """Returns the existing file at a path as typed, otherwise the recipe of that name.

    Args:
        text: A name or path, as typed.
        label: The start of the error message, such as the option.
        folders: Folders in which a recipe is found by the last part of its name; None for all folders.

    Raises:
        ValueError: The file or recipe does not exist, or the name is ambiguous.
    """
    if (path := Path(text)).is_file():
        return path
    name = find_recipe(text, folders)
    if name is None:
        raise ValueError(missing_file_message(text, label))
    return recipe_path(name)


def missing_file_message(text: str, label: str) -> str:
    """Returns the error message for a file or recipe that does not exist, with the most similar recipe."""
    return f"{label} must be a file that exists or the name of a recipe, but is {text}. {did_you_mean_recipe(text)}"


def did_you_mean_recipe(text: str) -> str:
    """Returns `"Did you mean X?"` for the recipe most similar to `text`, or how to list all recipes."""
    near = nearest_recipe(text)
    return f"Did you mean {near}?" if near else "`w2vlab configs` lists them."


def nearest_recipe(text: str) -> str | None:
    """Returns the name of the recipe most similar to `text`; None if none is similar."""
    spellings = {name.rpartition("/")[2]: name for name in reversed(recipe_names())}
    spellings |= {name: name for name in recipe_names()}
    near = difflib.get_close_matches(_plain(text).lower(), spellings, n=1)
    return spellings[near[0]] if near else None


def recipe_summary(name: str) -> str:
    """Returns the first sentence of the comment at the start of a recipe; empty without a comment."""
    lines = []
    for line in recipe_path(name).read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#")
        # The end of the comment, or of its first paragraph, or a command.
        if text == line or not text.strip() or re.match(r"\s+w2vlab ", text):
            break
        lines.append(text.strip())
    first = re.split(r"(?<=[\w%)`]{2})\.\s+(?!\d)", " ".join(lines))[0]  # does not split after "et al."
    return first.rstrip(".:,; ")


def _plain(text: str) -> str:
    return text.removeprefix(f"{_FOLDER}/").removesuffix(ENDING)


def _in(name: str, folders: Sequence[str] | None) -> bool:
    return folders is None or name.rpartition("/")[0] in folders
