"""Decides which checkpoint a run resumes from, and logs it."""

from __future__ import annotations

import inspect
import logging
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from w2vlab.cli.resuming.run_roots import RunRoots
from w2vlab.data import SpeechDataModule
from w2vlab.modules.checkpoints import saved_config
from w2vlab.modules.checkpoints.loading import (
    LAST,
    PREVIOUS,
    previous_of,
    read_checkpoint,
    unreadable_error,
    why_unusable,
)
from w2vlab.modules.checkpoints.resuming import validation_is_due
from w2vlab.utils.files import RUN_RECORD
from w2vlab.utils.messages import count
from w2vlab.utils.options import flat, without_options

_MAY_DIFFER = ("data.num_workers", "data.cache_dir", "data.accept_changes", "data.fuse_seconds")

_OF_THE_TRAINER = (
    "precision",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "accumulate_grad_batches",
    "limit_train_batches",
    "overfit_batches",
    "sync_batchnorm",
    "deterministic",
)
"""Options of the trainer that numbers depend on."""

_PRECISIONS = {"None": "32-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}
"""Lightning's names of precisions, by other spellings that it accepts."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """The checkpoint from which a run resumes.

    Attributes:
        checkpoint: The file, which has been read completely.
        update: Number of updates done.
        folder: Folder of the run that wrote it; None if unknown.
        config: Options of that run; None if the checkpoint does not have them.
        validation_is_due: Whether that run ended before or during the validation at this update.
        is_newest: Whether it is the usable checkpoint with the most updates of the run.
    """

    checkpoint: Path
    update: int
    folder: Path | None
    config: dict[str, Any] | None
    validation_is_due: bool
    is_newest: bool


def find_start(ckpt_path: str | None, roots: RunRoots, training: bool) -> Start | None:
    """Decides which checkpoint a run resumes from, and logs which one and why.

    `last` is the newest run of this run's own root folder, never one outside of it or of a root folder inside it. Of
    that run it is `last.ckpt`; if that cannot be used, the one before it, else the newest of the others. A run with
    checkpoints of which none can be used is an error, because a start from the beginning would present a new model as
    the old one. A path is that file; for a `last.ckpt` that cannot be used, the same fallbacks in its folder.

    Args:
        ckpt_path: As typed: `last`, a path, or None to start from the beginning.
        roots: Where the run keeps its files.
        training: Whether to resume training; a validation needs only the weights.

    Raises:
        ValueError: None of the candidates can be used.
        FileNotFoundError: No checkpoint to validate was found.
    """
    if ckpt_path is None:
        return None
    found = ""
    if ckpt_path == "last":
        folders, others = roots.checkpoint_folders()
        if not folders:
            _start_from_beginning(roots, others, training)
            return None
        checkpoint = _usable(_newest_first(folders[0]), training)
        found = f", of the newest of {count(len(folders), 'run')} below {roots}" if len(folders) > 1 else ""
    else:
        checkpoint = _named(Path(ckpt_path), training)
    start = _start(checkpoint)
    rank_zero_info(f"{'Resuming from' if training else 'Validating'} {checkpoint} (update {start.update}){found}.")
    return start


def log_if_complete(start: Start, max_updates: int) -> None:
    """Says that a checkpoint has all updates already, because the trainer ends without a word then.

    Args:
        start: The checkpoint.
        max_updates: `trainer.max_steps`; -1 if there is no limit.
    """
    if 0 <= max_updates <= start.update:
        rank_zero_info(
            f"No update is left: the checkpoint has {start.update}, and trainer.max_steps is {max_updates}. Set a "
            "larger --trainer.max_steps to train on."
        )


def _start_from_beginning(roots: RunRoots, others: list[Path], training: bool) -> None:
    text = f"There is no {LAST} below {roots}"
    if others:
        text += f" except for runs with another root folder ({', '.join(map(str, others[:3]))})"
    if not training:
        raise FileNotFoundError(f"`ckpt_path` is 'last', but t{text[1:]}.")
    rank_zero_info(f"{text}: starting from the beginning.")


def _named(path: Path, training: bool) -> Path:
    """Returns the checkpoint that was named; for a last one that cannot be used, its fallback."""
    last = path.name == LAST
    if not (path.is_file() or (last and previous_of(path).is_file())):
        hint = "" if path.exists() else ", which does not exist"
        raise ValueError(f"`ckpt_path` must be 'last' or a checkpoint file, but is {path}{hint}.")
    if last:
        return _usable(_newest_first(path.parent), training)
    if why := why_unusable(path, training):
        raise unreadable_error(path, why)
    return path


def _newest_first(folder: Path) -> list[Path]:
    """Returns the checkpoints of a run, the one to resume from first.

    A folder that does not belong to a run may contain other models beside the last one.
    """
    last = [path for path in (folder / LAST, previous_of(folder / LAST)) if path.exists() or path.is_symlink()]
    of_a_run = (folder.parent / RUN_RECORD).is_file()
    others = [path for path in folder.glob("*.ckpt") if of_a_run and path not in last and path.is_file()]
    return last + others


def _usable(paths: list[Path], training: bool) -> Path:
    """Returns the first that can be used of the last ones, else the one with the most updates.

    Raises:
        ValueError: None can be used.
    """
    problems: list[str] = []
    others: list[tuple[int, float, Path]] = []
    for path in paths:
        why = why_unusable(path, training)
        if why is not None:
            problems.append(f"{path} is {why}")
        elif path.stem.removesuffix(PREVIOUS) == Path(LAST).stem:
            _log_fallback(problems, path)
            return path
        else:
            others.append((_update_of(path), path.stat().st_mtime, path))
    if others:
        path = max(others)[2]
        _log_fallback(problems, path)
        return path
    raise ValueError(
        f"`ckpt_path` must be a checkpoint that can be used, but of this run none can: {'; '.join(problems)}. Name one "
        "of another run by its file, or leave --ckpt_path out to start from the beginning."
    )


def _log_fallback(problems: list[str], path: Path) -> None:
    if problems:
        _warn("%s. Using %s in its place.", "; ".join(problems), path)


def _update_of(path: Path) -> int:
    return int(read_checkpoint(path, check=False).get("global_step", 0))


def _start(path: Path) -> Start:
    checkpoint = read_checkpoint(path, check=False)
    update = int(checkpoint.get("global_step", 0))
    last = path.with_name(LAST)
    is_newest = path == last or not last.exists() or why_unusable(last) is not None or _update_of(last) <= update
    config = saved_config(checkpoint, path)
    return Start(path, update, _run_of(path, checkpoint), config, validation_is_due(checkpoint), is_newest)


def _run_of(path: Path, checkpoint: dict[str, Any]) -> Path | None:
    """Returns the folder of the run that wrote a checkpoint: the one around it, or the one that it records."""
    recorded = ((checkpoint.get("callbacks") or {}).get("RunReport") or {}).get("folder")
    places = [path.parent.parent, *([Path(recorded)] if isinstance(recorded, str) else [])]
    return next((place for place in places if (place / RUN_RECORD).is_file()), None)


@rank_zero_only
def _warn(text: str, *values: object) -> None:
    _log.warning(text, *values)


def differences(saved: dict[str, Any], current: dict[str, Any]) -> dict[str, list[Any]]:
    """Warns of every option that numbers depend on and that differs from the checkpoint.

    These are the options of the model (with its optimiser), of the data, and some of the trainer. The current options
    are the valid ones, as everywhere; none is taken from the checkpoint.

    Args:
        saved: The checkpoint's config.
        current: This run's.

    Returns:
        The old and the new value of each.
    """
    before, now = (dict(_compared(config)) for config in (saved, current))
    changed: dict[str, list[Any]] = {}
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and key not in _MAY_DIFFER:
            changed[key] = [before.get(key), now.get(key)]
            _warn("resuming with %s %s, the checkpoint had %s", key, now.get(key), before.get(key))
    return changed


def _compared(config: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    yield from flat("model", config.get("model", {}))
    # An option that is newer than the checkpoint has its default there.
    yield from flat("data", {**_data_defaults(), **(config.get("data") or {})})
    trainer = config.get("trainer") or {}
    for name in _OF_THE_TRAINER:
        value = trainer.get(name)
        yield f"trainer.{name}", _PRECISIONS.get(str(value), value) if name == "precision" else value


def _data_defaults() -> dict[str, Any]:
    options = inspect.signature(SpeechDataModule).parameters.values()
    return {option.name: option.default for option in options if option.default is not option.empty}


def command_to_resume(args: list[str], checkpoint: Path, new_run: bool = False) -> str:
    """Returns the command line that resumes a run from a checkpoint, by its name.

    Args:
        args: Those that started the run, without the program's name.
        checkpoint: The file.
        new_run: Whether their run was a new one; the resumed run is not.
    """
    words = [*without_options(args, "ckpt_path", "new_run"), f"--ckpt_path={checkpoint}"]
    return shlex.join(["w2vlab", *words, *(["--new_run=false"] if new_run else [])])
