"""Where a run writes, and whether it can."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from w2vlab.cli.doctor.finding import Finding, note, ok, problem, short
from w2vlab.utils.files import RUNS, cache_root

_MIN_FREE = 2 << 30
"""A checkpoint of BASE with its optimiser is 1.1 GB, and the one before it stays until the new one is whole."""


def check_runs(folder: Path = Path(RUNS)) -> Finding:
    """Checks the folder of runs."""
    return _check("runs", folder, "Start in another folder, or choose one: --trainer.default_root_dir=FOLDER")


def check_cache() -> Finding:
    """Checks the cache folder of fetched corpora and prepared manifests."""
    return _check("cache", cache_root(None), "Choose another: export W2VLAB_CACHE=FOLDER")


def check_temporary() -> Finding:
    """Checks the folder of temporary files."""
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        return problem("temporary", str(error.strerror), "export TMPDIR=FOLDER, with one that can be written to", True)
    return _check("temporary", folder, "export TMPDIR=FOLDER, with one that can be written to")


def _check(name: str, folder: Path, advice: str) -> Finding:
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent  # it will be made in this one
    try:
        # Only writing a file shows it: permission bits do not apply to root, nor to a file system mounted read-only.
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free
    except OSError as error:
        return problem(name, f"{short(folder)} cannot be written to: {error.strerror}", advice, blocks=True)
    text = f"{short(folder)}, {free / 2**30:,.1f} GiB free"
    if free < _MIN_FREE:
        return note(name, text, f"A large model's checkpoints need more. {advice}")
    return ok(name, text)
