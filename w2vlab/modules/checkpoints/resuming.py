"""Exact resuming: the progress that a checkpoint saves, and the options that the resumed run overrides."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from w2vlab.modules.checkpoints.plain_state import remove_non_plain_values
from w2vlab.registry import import_path, import_paths
from w2vlab.utils.messages import dimensions
from w2vlab.utils.resume_point import ResumePoint, resume_point, validates_at

LAYOUT = "w2vlab_layout"
OPTIMIZERS = "w2vlab_optimizers"

_NUM_LISTED = 3
"""Number of tensors that an error lists."""

_log = logging.getLogger(__name__)


def rewind_to_last_update(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Rewinds the progress in a checkpoint to the last complete update, wherever the trainer saves it.

    Lightning counts batches and hooks, and resumes after the last one that it has counted: in the middle of an update
    whose gradients are lost, after an unfinished validation, or in the next epoch if `max_steps` ended the run.

    Entries that are not plain data are removed, so that the checkpoint loads with `weights_only=True`.

    Args:
        checkpoint: The checkpoint of the trainer; changed in place.
        trainer: The trainer.
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
    checkpoint[LAYOUT] = _layout(trainer)
    checkpoint[OPTIMIZERS] = [import_path(type(optimizer)) for optimizer in trainer.optimizers]
    for name in remove_non_plain_values(checkpoint):
        _warn_of_removed(name)


@rank_zero_only
def _warn_of_removed(name: str) -> None:
    _log.warning("%s is not saved in checkpoints, because it is not plain data and loading it would run code.", name)


def _rewind_trackers(progress: dict[str, Any]) -> None:
    """Resets the counts of started steps to those of completed ones."""
    if "completed" not in progress:
        for inner in progress.values():
            _rewind_trackers(inner)
    else:
        progress.update(dict.fromkeys(progress, progress["completed"]))


def _loops_at(point: ResumePoint, total: int) -> dict[str, Any]:
    """Returns the counters with which Lightning resumes at `point`, after `total` micro-batches in all epochs."""
    started = point.epoch + (point.batches > 0 or point.is_last)
    epochs = {"ready": started, "started": started, "processed": point.epoch, "completed": point.epoch}
    # Lightning then runs a validation that was started from its first batch.
    validation = int(point.validation_is_due)
    return {
        "epoch_progress": {"total": epochs, "current": dict(epochs)},
        "epoch_loop.batch_progress": {
            "total": _all_counts(total),
            "current": _all_counts(point.batches),
            "is_last_batch": point.is_last,
        },
        "epoch_loop.val_loop.batch_progress": {
            "total": {**_all_counts(0), "ready": validation, "started": validation},
            "current": _all_counts(0),
            "is_last_batch": False,
        },
    }


def _all_counts(number: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "started", "processed", "completed"), number)


def apply_overrides(checkpoint: dict[str, Any], module: LightningModule) -> None:
    """Overrides the options in a checkpoint with those of the resumed run, and adapts the progress to its layout.

    The options of optimizer and schedule are those of `module`; the state of the optimizer (moving averages of
    gradients) is that of the checkpoint. The learning rate is that of the schedule of `module` at the update of the
    checkpoint.

    Args:
        checkpoint: The loaded checkpoint; changed in place.
        module: The module that resumes, before its weights are loaded.

    Raises:
        ValueError: The tensors of the model differ from those of the checkpoint, or the class of the optimizer does.
    """
    trainer = module._trainer
    if trainer is None:  # the module is loaded without a trainer
        return
    if trainer.precision == "64-true":
        module.double()  # Lightning converts it after the weights are read, which would round them to float32
    if module.strict_loading:
        _check_tensors(checkpoint["state_dict"], module.state_dict())
    if trainer.state.fn == TrainerFn.FITTING and "optimizer_states" in checkpoint:
        _override_options(module, checkpoint)
        _adapt_to_layout(checkpoint, _layout(trainer))
        _start_next_epoch_unless_validating(checkpoint, trainer)


def _check_tensors(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    different = [
        f"{name} ({_shape(now, name)}; the checkpoint: {_shape(saved, name)})"
        for name in dict.fromkeys([*now, *saved])
        if _shape(now, name) != _shape(saved, name)
    ]
    if different:
        more = f" and {len(different) - _NUM_LISTED} more" if len(different) > _NUM_LISTED else ""
        raise ValueError(
            "`ckpt_path` must be a checkpoint of the same model, but these differ: "
            f"{', '.join(different[:_NUM_LISTED])}{more}. Use the model's options of the checkpoint, or start a new "
            "run without --ckpt_path."
        )


def _shape(tensors: Mapping[str, Any], name: str) -> str:
    return dimensions(tensors[name].shape) if name in tensors else "none"


def _override_options(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    configured: Any = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    now = type(optimizer)
    (before,) = checkpoint.get(OPTIMIZERS) or [import_path(now)]
    # Older checkpoints have the file of the class in its path.
    if before not in import_paths(now):
        raise ValueError(
            f"`model.optimizer` must be {before}, as in the checkpoint, but is {import_path(now)}; "
            "start a new run without --ckpt_path, or warm-start from its weights."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that the optimizer was not stepped
        for _ in range(checkpoint["global_step"]):
            scheduler.step()
    (state,) = checkpoint["optimizer_states"]
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    state["param_groups"] = [{**now, "params": saved["params"]} for saved, now in groups]
    checkpoint["lr_schedulers"] = [scheduler.state_dict()]


def _layout(trainer: Trainer) -> dict[str, int]:
    """Returns the number of processes, and of batches and micro-batches of an update on each."""
    accumulate = trainer.accumulate_grad_batches
    data = getattr(trainer, "datamodule", None)
    micro_batches = getattr(data, "accumulate", accumulate)  # more than batches if some are fused
    return {"processes": trainer.world_size, "accumulate": accumulate, "micro_batches": micro_batches}


def _adapt_to_layout(checkpoint: dict[str, Any], now: Mapping[str, int]) -> None:
    """Converts the counts of batches if the number of processes has changed, or that of batches of an update on each.

    The micro-batches of an epoch are one sequence that is distributed over all processes. If the size of an update has
    changed, the run resumes at the start of an update.
    """
    before = checkpoint.get(LAYOUT)
    if before is None:
        return
    before = {"micro_batches": before["accumulate"], **before}  # older checkpoints lack it
    if before == now:
        return
    loops = checkpoint["loops"]["fit_loop"]
    progress = loops["epoch_loop.batch_progress"]
    on_each = progress["current"]["completed"] * before["micro_batches"] // before["accumulate"]
    updates = on_each * before["processes"] // (now["processes"] * now["micro_batches"])
    total = progress["total"]["completed"] // before["accumulate"] * now["accumulate"]
    loops |= _loops_at(replace(_resume_point_in(loops), batches=updates * now["accumulate"]), total)


def _start_next_epoch_unless_validating(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Moves to the next epoch if a validation was due at the end of one, but the resumed run does not validate there.

    Otherwise Lightning would neither validate nor end the epoch, and would count the batches of the next epoch to it.
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
    """Returns whether a validation was due at a checkpoint and had not finished."""
    return LAYOUT in checkpoint and _resume_point_in(checkpoint["loops"]["fit_loop"]).validation_is_due
