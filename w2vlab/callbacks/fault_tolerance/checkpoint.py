"""Checkpoints of a run: the best ones, and a `last.ckpt` to resume from."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import proxy

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from w2vlab.callbacks.fault_tolerance.atomic_io import AtomicCheckpointIO
from w2vlab.callbacks.fault_tolerance.stopping import StoppedAtOnce
from w2vlab.callbacks.run_folder import warn_on_write_failure
from w2vlab.modules.checkpoints.loading import LAST
from w2vlab.utils.files import remove_unfinished
from w2vlab.utils.resume_point import validation_follows

_BEST_MODEL_STATE = (
    "best_k_models",
    "kth_best_model_path",
    "kth_value",
    "best_model_path",
    "best_model_score",
    "current_score",
)
"""Attributes of `ModelCheckpoint` that describe the best checkpoints."""


def find_checkpoint_to_resume(trainer: Trainer) -> Path | None:
    """Returns the checkpoint to resume from if the run ended now; None if it would start from scratch."""
    callback = find_run_checkpoint(trainer)
    if callback is not None and callback.last_model_path:
        last = Path(callback.last_model_path)
        if last.parent == Path(str(callback.dirpath)):  # otherwise it belongs to the run that was resumed
            return last
    return None if trainer.ckpt_path is None else Path(trainer.ckpt_path)


class RunCheckpoint(ModelCheckpoint):
    """Extends `ModelCheckpoint` by a `last.ckpt` that is always up to date and by atomic writes.

    Lightning's `save_last` writes only when the monitored metric has improved, and not at the end of training. The loss
    of these models may rise while they learn to use more codes, so that `last.ckpt` would be outdated. Here it is
    written every `every` updates, after every validation and epoch, at the end, and when the run is stopped. The
    version before it is kept as `last-previous.ckpt`. Only these two and the best checkpoints (`save_top_k`) are kept,
    so that a long run does not fill the disk.

    If a checkpoint cannot be written, a warning is logged, the existing ones stay intact, and the next save tries
    again. If the final state could not be written, the command exits with an error.

    A folder with the `last.ckpt` of another run is refused, because it would be kept as this run's
    `last-previous.ckpt`.

    A run that resumes in another folder is compared with the best checkpoints of the original folder, as long as they
    exist. They are never removed, because other runs may resume from that folder too.

    Args:
        every: Updates between two `last.ckpt`, at least 1; the most updates that a killed run loses.
        kwargs: Passed to `ModelCheckpoint`.
    """

    def __init__(self, every: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if every < 1:
            raise ValueError(f"`every` must be at least 1, but is {every}.")
        self.every = every
        self.unsaved: str | None = None
        """Why the last attempt to write `last.ckpt` failed; None if it succeeded."""
        self._failure: str | None = None  # of the last attempt to write any checkpoint
        self._last_update: int | None = None  # update of the newest `last.ckpt`, or of the start
        self._in_optimizer_step = False
        self._last_write_succeeded = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Installs atomic checkpoint writing.

        Raises:
            ValueError: `dirpath` is not on a file system.
        """
        super().setup(trainer, pl_module, stage)
        if stage == TrainerFn.FITTING and "://" in str(self.dirpath):
            raise ValueError(
                f"`dirpath` must be a folder on a local or mounted disk, but is {self.dirpath}. Checkpoints are "
                "written to a temporary file and then renamed: write them to a disk, and copy the folder from there."
            )
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses to overwrite the checkpoints of another run.

        Raises:
            ValueError: This run's folder has the `last.ckpt` of another run.
        """
        if not (trainer.fast_dev_run or self.last_model_path):  # type: ignore[attr-defined]
            refuse_another_run(Path(str(self.dirpath)), trainer.ckpt_path)

    def describe_unsaved_state(self, update: int) -> str | None:
        """Returns an error message if the final state, at `update`, could not be saved; None if it was saved."""
        if self.unsaved is None:
            return None
        last = Path(str(self.dirpath), LAST)
        if last.exists():
            existing = f"{last} is of update {self._last_update}"
        elif Path(self.best_model_path).is_file():
            existing = f"only the best checkpoint exists, {self.best_model_path}"
        else:
            existing = "no checkpoint was written"
        return (
            f"The state at update {update} could not be written ({self.unsaved}): {existing}. Free disk space, or use "
            "another disk with --trainer.default_root_dir."
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes temporary files of interrupted writes, and stores the update at which this run starts."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            resumed = [] if trainer.ckpt_path is None else [Path(trainer.ckpt_path).parent]
            for folder in {Path(str(self.dirpath)), *resumed}:
                remove_unfinished(folder)
        if self.monitor is not None:
            self._drop_missing_best_models(trainer)
        self._last_update = trainer.global_step
        self._in_optimizer_step = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets the loggers' step to the update count, because Lightning loses it when it resumes at a validation."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Marks the weights as inconsistent until the optimiser step has finished."""
        self._in_optimizer_step = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves `last.ckpt` every `every` updates."""
        self._in_optimizer_step = False
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        # A validation saves at its end, so that the checkpoint includes its metrics.
        if trainer.global_step % self.every == 0 and not validation_follows(trainer):
            self._save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the best checkpoint and `last.ckpt`."""
        super().on_validation_end(trainer, pl_module)
        # `last.ckpt` stores the path of the best checkpoint, which Lightning may save only at the epoch's end.
        ends_epoch = trainer.fit_loop.epoch_loop._num_ready_batches_reached()
        if not (ends_epoch and self._should_save_on_train_epoch_end(trainer)):
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves `last.ckpt` if there was no validation, or if Lightning saves the best checkpoint only here."""
        super().on_train_epoch_end(trainer, pl_module)
        self._save_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves `last.ckpt`, unless the exception came during an optimiser step."""
        super().on_exception(trainer, pl_module, exception)
        # Saving is collective. A stop is raised on all processes, an error perhaps on one, which would wait forever.
        on_all_processes = trainer.world_size == 1 or isinstance(exception, SIGTERMException)
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        partly_updated = self._in_optimizer_step and progress.processed < progress.ready
        if on_all_processes and not partly_updated and not isinstance(exception, StoppedAtOnce):
            self._save_last(trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best checkpoints also from another folder; Lightning does so only from the same one."""
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})

    def _drop_missing_best_models(self, trainer: Trainer) -> None:
        scores = self.best_k_models
        best_first = sorted(scores, key=scores.__getitem__, reverse=self.mode == "max")
        # Broadcast, so that all processes use the same list.
        best: list[str] = trainer.strategy.broadcast([path for path in best_first if Path(path).exists()])
        best = best if self.save_top_k < 0 else best[: self.save_top_k]
        self.best_k_models = {path: scores[path] for path in best}
        self.best_model_path, self.kth_best_model_path = (best[0], best[-1]) if best else ("", "")
        self.best_model_score = scores.get(self.best_model_path)
        self.kth_value = scores.get(self.kth_best_model_path, self.kth_value)

    def _save_last(self, trainer: Trainer) -> None:
        saves = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if not saves or self._last_update in (None, trainer.global_step):
            return
        if trainer.is_global_zero:
            for logger in trainer.loggers:  # flush: buffered rows are not computed again after a resume
                with warn_on_write_failure("The table of a logger"):
                    logger.save()
        path = Path(str(self.dirpath), LAST)
        if self._write(trainer, path, weights_only=False):
            self._last_update = trainer.global_step
            self.last_model_path = str(path)
        self.unsaved = self._failure

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        state = {name: getattr(self, name) for name in _BEST_MODEL_STATE if hasattr(self, name)}
        state["best_k_models"] = dict(self.best_k_models)
        self._last_write_succeeded = True
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        if not self._last_write_succeeded:  # keep the best checkpoints that exist
            for name, value in state.items():
                setattr(self, name, value)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self._last_write_succeeded = self._write(trainer, filepath, self.save_weights_only)
        if self._last_write_succeeded:
            self._last_global_step_saved = trainer.global_step
            self._last_checkpoint_saved = filepath
            if trainer.is_global_zero:
                for logger in trainer.loggers:
                    logger.after_save_checkpoint(proxy(self))

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # The path may come from an untrusted checkpoint, so only checkpoints in this run's folder are removed.
        in_folder = Path(filepath).resolve().parent == Path(str(self.dirpath)).resolve()
        # If the last write failed, there is no replacement for this checkpoint.
        if self._last_write_succeeded and in_folder and filepath.endswith(".ckpt"):
            super()._remove_checkpoint(trainer, filepath)

    def _write(self, trainer: Trainer, path: str | Path, weights_only: bool) -> bool:
        """Saves a checkpoint; returns whether that succeeded, the same value on all processes."""
        trainer.save_checkpoint(path, weights_only)
        writer = trainer.strategy.checkpoint_io
        failure = writer.failure if isinstance(writer, AtomicCheckpointIO) else None
        self._failure = trainer.strategy.broadcast(None if failure is None else str(failure))
        return self._failure is None


def refuse_another_run(folder: Path, ckpt_path: str | Path | None) -> None:
    """Refuses a folder with a `last.ckpt`, unless the run resumes from a checkpoint in that folder.

    Raises:
        ValueError: The `last.ckpt` belongs to another run.
    """
    last = folder / LAST
    resumes = ckpt_path is not None and Path(ckpt_path).absolute().parent == folder.absolute()
    if last.exists() and not resumes:
        raise ValueError(
            f"`checkpoint.dirpath` must be a folder without checkpoints of another run, but {last} exists. Resume "
            f"it with --ckpt_path={last}, use another folder, or move it away."
        )


def find_run_checkpoint(trainer: Trainer) -> RunCheckpoint | None:
    """Returns the trainer's `RunCheckpoint`; None if it has none."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by its connector
    return next((callback for callback in callbacks if isinstance(callback, RunCheckpoint)), None)
