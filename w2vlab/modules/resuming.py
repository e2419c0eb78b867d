"""What a checkpoint holds so that going on from it is exact, and how it is taken up again."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from w2vlab.modules.plain_data import leave_out_what_is_not_plain
from w2vlab.place import ResumePoint, resume_point, validates_at

LAYOUT = "w2vlab_layout"
OPTIMIZERS = "w2vlab_optimizers"

_NAMED = 3
"""Tensors that an error names."""

_log = logging.getLogger(__name__)


def rewind_to_last_update(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Makes a checkpoint the one behind the last whole update, wherever the trainer is when it writes it.

    Lightning counts batches and hooks, and goes on behind whatever it has counted: in the middle of an update whose
    gradients are lost, behind a validation that was not finished, or in the next epoch where `max_steps` ended the run.

    Only plain data stays in it, so that it loads with `weights_only=True`.

    Args:
        checkpoint: As the trainer made it; changed in place.
        trainer: The trainer that made it.
    """
    place = resume_point(trainer)
    loops = checkpoint["loops"]["fit_loop"]
    _rewind_trackers(loops["epoch_loop.scheduler_progress"])
    _rewind_trackers(loops["epoch_loop.automatic_optimization.optim_progress"])
    total = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
    loops |= _loops_at(place, total - place.lost)
    # What loggers count, which is behind by one during a validation.
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"] - place.validation_is_due
    checkpoint["epoch"] = place.epoch
    checkpoint[LAYOUT] = {"processes": trainer.world_size, "accumulate": trainer.accumulate_grad_batches}
    checkpoint[OPTIMIZERS] = [_name(optimizer) for optimizer in trainer.optimizers]
    for name in leave_out_what_is_not_plain(checkpoint):
        _warn_of_left_out(name)


@rank_zero_only
def _warn_of_left_out(name: str) -> None:
    _log.warning("%s is not saved in checkpoints: it is no plain data, and reading it would run code.", name)


def _rewind_trackers(progress: dict[str, Any]) -> None:
    """Takes back what was begun and not completed."""
    if "completed" not in progress:
        for inner in progress.values():
            _rewind_trackers(inner)
    else:
        progress.update(dict.fromkeys(progress, progress["completed"]))


def _loops_at(place: ResumePoint, total: int) -> dict[str, Any]:
    """Returns the counters with which Lightning goes on at `place`, after `total` micro-batches in all epochs."""
    begun = place.epoch + (place.batches > 0 or place.is_last)
    epochs = {"ready": begun, "started": begun, "processed": place.epoch, "completed": place.epoch}
    # A validation that was begun, and has not got beyond its first batch, is done from its start.
    validation = int(place.validation_is_due)
    return {
        "epoch_progress": {"total": epochs, "current": dict(epochs)},
        "epoch_loop.batch_progress": {
            "total": _completed(total),
            "current": _completed(place.batches),
            "is_last_batch": place.is_last,
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
    """Fits a checkpoint to the run that goes on from it: its options and its number of processes count.

    Options of the optimiser and the schedule are those of `module`; what the optimiser has gathered (averages of
    gradients) is the checkpoint's. The learning rate is the one that `module`'s schedule has after that many updates.

    Args:
        checkpoint: As it was read; changed in place.
        module: The module that goes on, before its weights are loaded.

    Raises:
        ValueError: The model has other tensors, or the optimiser is of another class.
    """
    trainer = module._trainer
    if trainer is None:  # nothing goes on where a module is only loaded
        return
    if module.strict_loading:
        _check_tensors(checkpoint["state_dict"], module.state_dict())
    if trainer.state.fn == TrainerFn.FITTING and "optimizer_states" in checkpoint:
        _take_options_of(module, checkpoint)
        _fit_to_layout(checkpoint, trainer.world_size, trainer.accumulate_grad_batches)
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


def _take_options_of(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    configured: Any = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    (before,) = checkpoint.get(OPTIMIZERS) or [_name(optimizer)]
    if before != _name(optimizer):
        raise ValueError(
            f"`model.optimizer` must be {before}, as in the checkpoint, but is {_name(optimizer)}; "
            "start anew without --ckpt_path, or from its weights alone."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses the optimiser's steps
        for _ in range(checkpoint["global_step"]):
            scheduler.step()
    (state,) = checkpoint["optimizer_states"]
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    state["param_groups"] = [{**now, "params": saved["params"]} for saved, now in groups]
    checkpoint["lr_schedulers"] = [scheduler.state_dict()]


def _fit_to_layout(checkpoint: dict[str, Any], processes: int, accumulate: int) -> None:
    """Converts counts of micro-batches to another number of them in an update, or on a process.

    The micro-batches of an epoch are one sequence that all processes share. Where updates were of another size, it goes
    on at the start of one.
    """
    before = checkpoint.get(LAYOUT)
    if before is None or before == {"processes": processes, "accumulate": accumulate}:
        return
    loops = checkpoint["loops"]["fit_loop"]
    progress = loops["epoch_loop.batch_progress"]
    sequence = progress["current"]["completed"] * before["processes"]
    total = progress["total"]["completed"] // before["accumulate"] * accumulate
    place = replace(_place_in(loops), batches=sequence // (processes * accumulate) * accumulate)
    loops |= _loops_at(place, total)


def _leave_the_epoch_unless_validated(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Goes on in the next epoch where a validation was due at the end of one, but this run has none there.

    Lightning would neither validate nor end the epoch, and count the next one's batches as its own.
    """
    loops = checkpoint["loops"]["fit_loop"]
    place = _place_in(loops)
    total = loops["epoch_loop.batch_progress"]["total"]["completed"]
    if place.is_last and place.validation_is_due and not validates_at(place, total, trainer):
        loops |= _loops_at(ResumePoint(place.epoch + 1, 0, is_last=False, validation_is_due=False), total)
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"]


def _place_in(loops: dict[str, Any]) -> ResumePoint:
    progress = loops["epoch_loop.batch_progress"]
    return ResumePoint(
        epoch=loops["epoch_progress"]["current"]["processed"],
        batches=progress["current"]["completed"],
        is_last=progress["is_last_batch"],
        validation_is_due=loops["epoch_loop.val_loop.batch_progress"]["total"]["ready"] > 0,
    )


def validation_is_due(checkpoint: dict[str, Any]) -> bool:
    """Tells whether the run that wrote a checkpoint ended before or within the validation at that place."""
    return LAYOUT in checkpoint and _place_in(checkpoint["loops"]["fit_loop"]).validation_is_due


def _name(part: object) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"
