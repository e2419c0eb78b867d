"""What a checkpoint holds so that resuming from it is exact, and what the options of the resumed run override."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from w2vlab.modules.checkpoints.plain_state import leave_out_what_is_not_plain
from w2vlab.registry import import_path
from w2vlab.utils.resume_point import ResumePoint, resume_point, validates_at

LAYOUT = "w2vlab_layout"
OPTIMIZERS = "w2vlab_optimizers"

_NAMED = 3
"""Tensors that an error names."""

_log = logging.getLogger(__name__)


def rewind_to_last_update(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Rewinds the progress in a checkpoint to the last whole update, whenever the trainer writes it.

    Lightning counts batches and hooks, and resumes after the last one that it has counted: in the middle of an update
    whose gradients are lost, after a validation that was not finished, or in the next epoch if `max_steps` ended the
    run.

    Whatever is not plain data is removed, so that the checkpoint loads with `weights_only=True`.

    Args:
        checkpoint: As the trainer made it; changed in place.
        trainer: The trainer that made it.
    """
    point = resume_point(trainer)
    loops = checkpoint["loops"]["fit_loop"]
    _rewind_trackers(loops["epoch_loop.scheduler_progress"])
    _rewind_trackers(loops["epoch_loop.automatic_optimization.optim_progress"])
    total = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
    loops |= _loops_at(point, total - point.lost)
    # The steps that loggers count: one less than `global_step` during a validation.
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"] - point.validation_is_due
    checkpoint["epoch"] = point.epoch
    checkpoint[LAYOUT] = {"processes": trainer.world_size, "accumulate": trainer.accumulate_grad_batches}
    checkpoint[OPTIMIZERS] = [import_path(type(optimizer)) for optimizer in trainer.optimizers]
    for name in leave_out_what_is_not_plain(checkpoint):
        _warn_of_left_out(name)


@rank_zero_only
def _warn_of_left_out(name: str) -> None:
    _log.warning("%s is not saved in checkpoints: it is not plain data, and reading it would run code.", name)


def _rewind_trackers(progress: dict[str, Any]) -> None:
    """Resets the counts of what was started and not completed."""
    if "completed" not in progress:
        for inner in progress.values():
            _rewind_trackers(inner)
    else:
        progress.update(dict.fromkeys(progress, progress["completed"]))


def _loops_at(point: ResumePoint, total: int) -> dict[str, Any]:
    """Returns the counters with which Lightning resumes at `point`, after `total` micro-batches in all epochs."""
    begun = point.epoch + (point.batches > 0 or point.is_last)
    epochs = {"ready": begun, "started": begun, "processed": point.epoch, "completed": point.epoch}
    # Lightning then runs a validation that was started from its first batch.
    validation = int(point.validation_is_due)
    return {
        "epoch_progress": {"total": epochs, "current": dict(epochs)},
        "epoch_loop.batch_progress": {
            "total": _completed(total),
            "current": _completed(point.batches),
            "is_last_batch": point.is_last,
        },
        "epoch_loop.val_loop.batch_progress": {
            "total": {**_completed(0), "ready": validation, "started": validation},
            "current": _completed(0),
            "is_last_batch": False,
        },
    }


def _completed(number: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "started", "processed", "completed"), number)


def apply_overrides(checkpoint: dict[str, Any], module: LightningModule) -> None:
    """Overrides the options in a checkpoint by those of the run that resumes from it, and adapts it to its layout.

    Options of the optimiser and the schedule are those of `module`; the state of the optimiser (averages of gradients)
    is the checkpoint's. The learning rate is the one that `module`'s schedule has after that many updates.

    Args:
        checkpoint: As it was read; changed in place.
        module: The module that resumes, before its weights are loaded.

    Raises:
        ValueError: The model has other tensors, or the optimiser is of another class.
    """
    trainer = module._trainer
    if trainer is None:  # the module is loaded without a run
        return
    if module.strict_loading:
        _check_tensors(checkpoint["state_dict"], module.state_dict())
    if trainer.state.fn == TrainerFn.FITTING and "optimizer_states" in checkpoint:
        _override_options(module, checkpoint)
        _adapt_to_layout(checkpoint, trainer.world_size, trainer.accumulate_grad_batches)
        _leave_the_epoch_unless_validated(checkpoint, trainer)


def _check_tensors(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    different = [
        f"{name} ({_shape(now, name)}; the checkpoint: {_shape(saved, name)})"
        for name in dict.fromkeys([*now, *saved])
        if _shape(now, name) != _shape(saved, name)
    ]
    if different:
        more = f" and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
        raise ValueError(
            f"`ckpt_path` must be a checkpoint of the same model, but these differ: {', '.join(different[:_NAMED])}"
            f"{more}. Give the model's options that the checkpoint was written with, or start anew without --ckpt_path."
        )


def _shape(tensors: Mapping[str, Any], name: str) -> str:
    return " x ".join(map(str, tensors[name].shape)) or "a number" if name in tensors else "none"


def _override_options(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    configured: Any = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    now = type(optimizer)
    (before,) = checkpoint.get(OPTIMIZERS) or [import_path(now)]
    # Older checkpoints have the file of the class in its path.
    if before not in (import_path(now), f"{now.__module__}.{now.__qualname__}"):
        raise ValueError(
            f"`model.optimizer` must be {before}, as in the checkpoint, but is {import_path(now)}; "
            "start anew without --ckpt_path, or from its weights alone."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that the optimiser was not stepped
        for _ in range(checkpoint["global_step"]):
            scheduler.step()
    (state,) = checkpoint["optimizer_states"]
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    state["param_groups"] = [{**now, "params": saved["params"]} for saved, now in groups]
    checkpoint["lr_schedulers"] = [scheduler.state_dict()]


def _adapt_to_layout(checkpoint: dict[str, Any], processes: int, accumulate: int) -> None:
    """Converts counts of micro-batches to another number of them in an update, or on a process.

    The micro-batches of an epoch are one sequence that all processes share. If updates had another size, the run
    resumes at the start of one.
    """
    before = checkpoint.get(LAYOUT)
    if before is None or before == {"processes": processes, "accumulate": accumulate}:
        return
    loops = checkpoint["loops"]["fit_loop"]
    progress = loops["epoch_loop.batch_progress"]
    sequence = progress["current"]["completed"] * before["processes"]
    total = progress["total"]["completed"] // before["accumulate"] * accumulate
    point = replace(_resume_point_in(loops), batches=sequence // (processes * accumulate) * accumulate)
    loops |= _loops_at(point, total)


def _leave_the_epoch_unless_validated(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Moves to the next epoch if a validation was due at the end of one, but this run has none there.

    Lightning would neither validate nor end the epoch, and count the next one's batches as its own.
    """
    loops = checkpoint["loops"]["fit_loop"]
    point = _resume_point_in(loops)
    total = loops["epoch_loop.batch_progress"]["total"]["completed"]
    if point.is_last and point.validation_is_due and not validates_at(point, total, trainer):
        loops |= _loops_at(ResumePoint(point.epoch + 1, 0, is_last=False, validation_is_due=False), total)
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"]


def _resume_point_in(loops: dict[str, Any]) -> ResumePoint:
    progress = loops["epoch_loop.batch_progress"]
    return ResumePoint(
        epoch=loops["epoch_progress"]["current"]["processed"],
        batches=progress["current"]["completed"],
        is_last=progress["is_last_batch"],
        validation_is_due=loops["epoch_loop.val_loop.batch_progress"]["total"]["ready"] > 0,
    )


def validation_is_due(checkpoint: dict[str, Any]) -> bool:
    """Returns whether the run that wrote a checkpoint ended before or within the validation that was due there."""
    return LAYOUT in checkpoint and _resume_point_in(checkpoint["loops"]["fit_loop"]).validation_is_due
