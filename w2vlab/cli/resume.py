"""Finding the checkpoint to go on from, and saying where it differs from the run at hand."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

_log = logging.getLogger(__name__)


def newest_last_checkpoint(folders: Iterable[Path]) -> Path | None:
    """Returns the `last.ckpt` written most recently anywhere below `folders`; None where there is none."""
    pattern = f"{ModelCheckpoint.CHECKPOINT_NAME_LAST}*{ModelCheckpoint.FILE_EXTENSION}"
    found = [path for folder in folders for path in folder.rglob(pattern)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


@rank_zero_only
def report_differences(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Warns of every model option that is not what it was when the checkpoint was written.

    The options at hand are the ones that count, as everywhere; nothing is taken over from the checkpoint.

    Args:
        saved: The checkpoint's config.
        current: This run's.
    """
    before, now = (dict(_flat("model", config.get("model", {}))) for config in (saved, current))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            _log.warning("resuming with %s %s, the checkpoint had %s", key, now.get(key), before.get(key))


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the leaves of a nested config with keys as they are typed: `model.quantizer.codebook_size`."""
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        if name == "class_path":
            yield key, inner
        else:
            yield from _flat(key if name == "init_args" else f"{key}.{name}", inner)


def command_to_go_on(args: list[str]) -> str:
    """Returns the command line that goes on with the run that `args`, without the program's name, started."""
    kept = []
    words = iter(args)
    for word in words:
        if word == "--ckpt_path":
            next(words, None)
        elif not word.startswith("--ckpt_path="):
            kept.append(word)
    return shlex.join(["w2vlab", *kept, "--ckpt_path=last"])
