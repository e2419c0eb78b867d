"""`w2vlab configs`: lists, shows and copies the recipes of the package."""

from __future__ import annotations

import shlex
import sys
from itertools import groupby
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from w2vlab.cli.logging.console import output_console
from w2vlab.recipes import ENDING, did_you_mean_recipe, find_recipe, recipe_names, recipe_path, recipe_summary
from w2vlab.registry import known_names

_HELP = """\
Usage: w2vlab configs [FOLDER]
       w2vlab configs show NAME
       w2vlab configs copy NAME [TARGET]

Lists the recipes of w2vlab, prints one, or copies one to a file or folder (by default the current one) for editing.

A name can be used in place of a path wherever a file is an option; an existing file at that path has priority:

  w2vlab fit --config quickstart --model.quantizer=quantizer/ema --trainer.callbacks+=callbacks/online_probe
  w2vlab explain --config wav2vec2_base --config trainer/ddp
  w2vlab sweep sweeps/quantizers_small
"""

_ACTIONS = ("show", "copy")

_PLAIN_WIDTH = 200
"""Columns if the output is not a terminal."""

_USES = {
    "sweeps": "w2vlab sweep {}",
    "callbacks": "w2vlab fit … --trainer.callbacks+={}",
    "logger": "w2vlab fit … --trainer.logger={}",
    "encoder": "w2vlab fit … --model.encoder={}",
    "context": "w2vlab fit … --model.context={}",
    "quantizer": "w2vlab fit … --model.quantizer={}",
    "masking": "w2vlab fit … --model.masking={}",
    "losses": "w2vlab fit … --model.loss={}",
    "": "w2vlab fit --config {}",
}
"""How the files of a folder are used; those of other folders follow a recipe."""


def run(args: list[str]) -> int:
    """Lists, shows or copies recipes.

    Args:
        args: What follows `configs` on the command line.

    Returns:
        Exit status: 0 done, 1 it cannot be done, 2 wrong usage.
    """
    if args in (["-h"], ["--help"]):
        sys.stdout.write(_HELP)
        return 0
    try:
        if len(args) <= 1:
            return _list(args[0] if args else None)
        action, name, *target = args
        if action not in _ACTIONS:
            return _misused(f"Unknown action '{action}'. {known_names(action, _ACTIONS)}")
        if len(target) > (action == "copy"):
            return _misused(f"`w2vlab configs {action}` was given more than it takes: {shlex.join(args[1:])}.")
        found = find_recipe(name, folders=None)
        if found is None:
            raise ValueError(f"NAME must be that of a recipe, but is {name}. {did_you_mean_recipe(name)}")
        if action == "show":
            sys.stdout.write(recipe_path(found).read_text(encoding="utf-8"))
            return 0
        return _copy(found, Path(target[0]) if target else Path())
    except (ValueError, OSError) as problem:
        sys.stderr.write(f"error: {problem}\n")
        return 1


def _misused(message: str) -> int:
    sys.stderr.write(f"error: {message}\nSee w2vlab configs --help.\n")
    return 2


def _list(only: str | None) -> int:
    folders = {folder: list(names) for folder, names in groupby(recipe_names(), lambda name: name.rpartition("/")[0])}
    if only in _ACTIONS:
        return _misused(f"`w2vlab configs {only}` needs the NAME of a recipe.")
    if only is not None:
        only = only.removeprefix("configs/").rstrip("/")
        known = [folder for folder in folders if folder]
        if only not in known:
            return _misused(f"Unknown folder '{only}'. {known_names(only, known)}")
        folders = {only: folders[only]}
    console = output_console(_PLAIN_WIDTH)
    table = Table("name", "description", box=None, pad_edge=False, header_style="bold")
    table.columns[0].no_wrap = True
    for number, (folder, names) in enumerate(folders.items()):
        if number:
            table.add_row()
        if folder:
            table.add_row(f"[bold]{folder}[/bold]", escape(_use(folder).format("NAME")))
        for name in names:
            table.add_row(name, escape(recipe_summary(name)))
    console.print(table, highlight=False)
    return 0


def _copy(name: str, target: Path) -> int:
    if target.is_dir():
        target = target / f"{name.rpartition('/')[2]}{ENDING}"
    text = recipe_path(name).read_text(encoding="utf-8")
    try:
        with target.open("x", encoding="utf-8") as file:  # never overwrites an edited file
            file.write(text)
    except FileExistsError:
        raise ValueError(f"TARGET must not exist yet, but {target} does: nothing was written.") from None
    use = _use(name.rpartition("/")[0]).format(shlex.quote(str(target)))
    sys.stdout.write(f"Written: {target}. Use it: {use}\n")
    if str(target) != name and target.name == str(target):
        sys.stdout.write(f"(`{name}` without the ending stays the recipe as shipped.)\n")
    return 0


def _use(folder: str) -> str:
    return _USES.get(folder, "w2vlab fit --config … --config {}")
