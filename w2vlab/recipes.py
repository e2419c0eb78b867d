"""The files of `configs/`, which travel with the package: found by name, wherever a command takes the path of one.

A name is the path below `configs/` without its ending: `quickstart`, `quantizer/ema`. `configs/quantizer/ema.yaml` and
`quantizer/ema.yaml` mean the same. A file that is there at the path as typed always comes first.
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
"""Where the files for `--config` are: there the last word of a name will do."""

SWEEP_FOLDERS = ("sweeps",)
"""Where the files for `w2vlab sweep` are."""


@cache
def recipe_folder() -> Path:
    """Returns the folder of the shipped files: inside the package, or beside it in a clone.

    Raises:
        ValueError: There is none, so the installation is broken.
    """
    package = Path(__file__).parent
    if (installed := package / _FOLDER).is_dir():
        return installed
    clone = package.parent
    # Beside an installed package may be a folder of this name that is somebody else's.
    if (clone / "pyproject.toml").is_file() and (clone / _FOLDER).is_dir():
        return clone / _FOLDER
    raise ValueError(f"This installation of w2vlab lacks its recipes: there is no {installed}. Install it again.")


@cache
def recipe_names() -> tuple[str, ...]:
    """Returns the names of all shipped files, those that stand in no folder first."""
    root = recipe_folder()
    names = [path.relative_to(root).with_suffix("").as_posix() for path in root.rglob(f"*{ENDING}")]
    return tuple(sorted(names, key=lambda name: ("/" in name, name)))


def recipe_path(name: str) -> Path:
    """Returns the file of a name out of `recipe_names`."""
    return recipe_folder() / f"{name}{ENDING}"


def find_recipe(text: str, folders: Sequence[str] | None = ()) -> str | None:
    """Returns the name of the shipped file that `text` means; None where it means none.

    Args:
        text: What was typed.
        folders: Where the last word of a name will do; None for everywhere.

    Raises:
        ValueError: It could mean several.
    """
    name = _plain(text)
    names = recipe_names()
    if name in names:
        return name
    near = [known for known in names if _in(known, folders) and known.rpartition("/")[2] == name]
    if len(near) > 1:
        raise ValueError(f"'{text}' could be any of the recipes {', '.join(near)}: give the whole name.")
    return near[0] if near else None


def file_named(text: str, what: str, folders: Sequence[str] | None = ()) -> Path:
    """Returns the file at a path as typed, else the shipped one of that name.

    Args:
        text: What was typed.
        what: What it was typed for, for the message.
        folders: Where the last word of a name will do; None for everywhere.

    Raises:
        ValueError: There is neither, or several shipped ones.
    """
    if (path := Path(text)).is_file():
        return path
    name = find_recipe(text, folders)
    if name is None:
        raise ValueError(no_such_file(text, what))
    return recipe_path(name)


def no_such_file(text: str, what: str) -> str:
    """Says that there is neither a file at a path nor a recipe of that name, and which recipe was probably meant."""
    return f"{what} must be a file that exists or the name of a recipe, but is {text}. {did_you_mean_recipe(text)}"


def did_you_mean_recipe(text: str) -> str:
    """Returns `"Did you mean X?"` for the recipe nearest to `text`, or how to see all of them."""
    near = nearest_recipe(text)
    return f"Did you mean {near}?" if near else "`w2vlab configs` lists them."


def nearest_recipe(text: str) -> str | None:
    """Returns the name of the shipped file that `text` was probably meant to be; None where none is near."""
    spellings = {name.rpartition("/")[2]: name for name in reversed(recipe_names())}
    spellings |= {name: name for name in recipe_names()}
    near = difflib.get_close_matches(_plain(text).lower(), spellings, n=1)
    return spellings[near[0]] if near else None


def recipe_summary(name: str) -> str:
    """Returns the first sentence of the comment that a shipped file begins with; empty where it has none."""
    lines = []
    for line in recipe_path(name).read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#")
        # The comment ends, or a command is set off from it.
        if text == line or not text.strip() or re.match(r"\s+w2vlab ", text):
            break
        lines.append(text.strip())
    first = re.split(r"(?<=[\w%)`]{2})\.\s+(?!\d)", " ".join(lines))[0]  # not behind "et al. 2020"
    return first.rstrip(".:,; ")


def _plain(text: str) -> str:
    return text.removeprefix(f"{_FOLDER}/").removesuffix(ENDING)


def _in(name: str, folders: Sequence[str] | None) -> bool:
    return folders is None or name.rpartition("/")[0] in folders
