"""Finding the checkpoint to go on from, and saying where it differs from the run at hand."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from w2vlab.distributed import all_gather, is_distributed
from w2vlab.modules.loading import LAST, damage_of, damaged, previous_of
from w2vlab.options import flat, without_checkpoint
from w2vlab.types import RunError

_MAY_DIFFER = ("data.num_workers", "data.cache_dir")

_log = logging.getLogger(__name__)


def newest_last_checkpoint(folders: Iterable[Path]) -> Path | None:
    """Returns the whole `last.ckpt` written most recently anywhere below `folders`; None where there is none.

    Where it is damaged, the one before it is taken, with a warning.
    """
    runs: dict[Path, list[Path]] = {}
    for folder in folders:
        for name in (LAST, previous_of(LAST).name):
            for path in folder.rglob(name):
                runs.setdefault(path.parent, []).append(path)
    newest_first = sorted(runs.values(), key=lambda paths: paths[0].stat().st_mtime, reverse=True)
    for paths in newest_first:
        whole = _first_whole(paths)
        if whole is not None:
            return whole
        _warn("%s is damaged: looking for an older one.", paths[0])
    return None


def whole_checkpoint(path: str | Path) -> Path:
    """Returns `path`, or the checkpoint that it replaced if that one alone is whole, with a warning.

    Raises:
        ValueError: Neither is whole.
    """
    path, previous = Path(path), previous_of(path)
    whole = path if not path.is_file() else _first_whole([path, previous])
    if whole is None:
        raise damaged(path, damage_of(path) or "")
    return whole


def _first_whole(paths: Iterable[Path]) -> Path | None:
    """Returns the first that is whole, with a warning of those that are not; None, without one, where none is."""
    damages: list[str] = []
    for path in filter(Path.is_file, paths):
        damage = damage_of(path)
        if damage is None:
            for text in damages:
                _warn("%s Going on from the one before it, %s.", text, path)
            return path
        damages.append(f"{path} is damaged ({damage}).")
    return None


@rank_zero_only
def _warn(text: str, *values: object) -> None:
    _log.warning(text, *values)


class SameCheckpoint(Callback):
    """Ends a run whose processes would not begin at the same place: each looks for the last checkpoint by itself.

    Args:
        update: The update that this process goes on from; None where it begins anew.
    """

    def __init__(self, update: int | None) -> None:
        self.update = update

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compares the processes, before any of them waits for what another one does not do.

        Raises:
            RunError: They differ.
        """
        if not is_distributed():
            return
        own = torch.tensor(-1 if self.update is None else self.update, device=trainer.strategy.root_device)
        processes: dict[int, list[int]] = {}
        for process, update in enumerate(all_gather(own).tolist()):
            processes.setdefault(update, []).append(process)
        if len(processes) > 1:
            found = "; ".join(
                f"{'the beginning' if update < 0 else f'update {update}'} on {', '.join(map(str, those))}"
                for update, those in processes.items()
            )
            raise RunError(
                f"`ckpt_path` must be the same checkpoint on all processes, but they would go on from: {found}. The "
                "folder of the run must be on a disk that all nodes share: set `trainer.default_root_dir` to one."
            )


def report_differences(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Warns of every option of the model (with its optimiser) and the data that is not what it was in the checkpoint.

    The options at hand are the ones that count, as everywhere; nothing is taken over from the checkpoint.

    Args:
        saved: The checkpoint's config.
        current: This run's.
    """
    before, now = (
        {key: value for part in ("model", "data") for key, value in flat(part, config.get(part, {}))}
        for config in (saved, current)
    )
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and key not in _MAY_DIFFER:
            _warn("resuming with %s %s, the checkpoint had %s", key, now.get(key), before.get(key))


def command_to_go_on(args: list[str]) -> str:
    """Returns the command line that goes on with the run that `args`, without the program's name, started."""
    return shlex.join(["w2vlab", *without_checkpoint(args), "--ckpt_path=last"])
