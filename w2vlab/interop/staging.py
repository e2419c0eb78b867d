"""Writes a file or a folder that is complete or not there."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from w2vlab.utils.files import UNFINISHED

_OF_A_FOLDER = (
    *("README.md", "config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer_config.json", "vocab.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"),
)
"""Files of an exported folder, which may be overwritten together."""

_REPLACED = ".replaced"
"""Name of the folder that is replaced, until it is removed."""


def check_target(out: Path, source: str | Path, overwrite: bool, is_folder: bool = False) -> None:
    """Checks that a file or folder may be written.

    Args:
        out: The file or folder.
        source: What is read, whose weights are needed to the end.
        overwrite: Whether it may exist.
        is_folder: Whether it is to be a folder. One that exists may have nothing but the files of an export.

    Raises:
        ValueError: It exists, is the source, or is not what it is to be.
    """
    if not out.name:
        raise ValueError(f"`out` must be a file or folder to write, but is {out}.")
    if not out.exists():
        return
    if not overwrite:
        raise ValueError(f"`out` must not exist, but {out} does; --overwrite replaces it.")
    if Path(source).exists() and out.samefile(source):
        raise ValueError(f"`out` must not be the source, but is {out}.")
    if out.is_dir() != is_folder:
        raise ValueError(f"`out` must be a {'folder' if is_folder else 'file'} in this format, but {out} is not.")
    others = [path.name for path in out.iterdir() if path.name not in _OF_A_FOLDER] if is_folder else []
    if others:
        raise ValueError(
            f"`out` must be a folder with the files of an export alone to be overwritten, but {out} has {others[0]}."
        )


@contextmanager
def staged(out: Path, overwrite: bool) -> Iterator[tuple[Path, list[Path]]]:
    """Yields a path of the same name in a temporary folder, and moves what was written there beside `out` at the end.

    Some formats write more than one file. If it fails or is interrupted, nothing is left.
    """
    staging = out.with_name(out.name + UNFINISHED)
    if staging.exists():
        _remove_unfinished(staging, out)
    staging.mkdir(parents=True)
    files: list[Path] = []
    try:
        yield staging / out.name, files
        written = sorted(staging.iterdir(), key=lambda path: path.name == out.name)  # `out` last: it names the others
        targets = [out.with_name(path.name) for path in written]
        for path, target in zip(written, targets, strict=True):
            if target.exists() and not overwrite and not _is_same_file(path, target):
                raise ValueError(f"{target}, which belongs to {out.name}, must not exist; --overwrite replaces it.")
        for path, target in zip(written, targets, strict=True):
            if path.is_dir() and target.is_dir():
                _replace_folder(path, target, staging / _REPLACED)
            else:
                os.replace(path, target)
        files += sorted(out.iterdir()) if out.is_dir() else reversed(targets)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remove_unfinished(staging: Path, out: Path) -> None:
    """Removes what a killed process has left, and refuses to remove anything else."""
    names = [path.name for path in staging.iterdir()] if staging.is_dir() else [staging.name]
    if any(not name.startswith((out.stem, "dict.", ".")) for name in names) or not staging.is_dir():
        raise ValueError(
            f"{staging}, the folder of unfinished files, must have the files of an export alone, but has others: "
            "remove or rename it."
        )
    shutil.rmtree(staging)


def _replace_folder(path: Path, target: Path, aside: Path) -> None:
    """Moves a folder to the place of another one, which is put aside; if that fails, it is back in its place."""
    try:
        os.replace(target, aside)
        os.replace(path, target)
    except BaseException:
        if not target.exists() and aside.exists():
            os.replace(aside, target)
        raise


def _is_same_file(path: Path, other: Path) -> bool:
    """Returns whether a second file of an export is there already, such as a dictionary that two models share."""
    return path.is_file() and other.is_file() and filecmp.cmp(path, other, shallow=False)
