"""Checkpoints of a run: the best one, and always the state to go on from."""

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

from w2vlab.callbacks.atomic_io import AtomicCheckpointIO
from w2vlab.callbacks.run_folder import may_fail
from w2vlab.callbacks.stopping import StoppedAtOnce
from w2vlab.files import remove_unfinished
from w2vlab.modules.loading import LAST
from w2vlab.place import validation_follows

_BEST = ("best_k_models", "kth_best_model_path", "kth_value", "best_model_path", "best_model_score", "current_score")


def checkpoint_to_resume(trainer: Trainer) -> Path | None:
    """Returns what the run would be resumed from if it ended now; None where it would begin anew."""
    callback = run_checkpoint(trainer)
    if callback is not None and callback.last_model_path:
        last = Path(callback.last_model_path)
        if last.parent == Path(str(callback.dirpath)):  # else it is that of the run before
            return last
    return None if trainer.ckpt_path is None else Path(trainer.ckpt_path)


class RunCheckpoint(ModelCheckpoint):
    """Adds to Lightning's callback a `last.ckpt` that is always up to date, and files that are never half-written.

    Lightning's `save_last` writes only when the monitored metric has improved, and not at the end of training. The loss
    of these models may well rise while they learn to use more codes, so that state would be far behind. Here it is
    written every so many updates, after every validation and epoch, at the end, and when the run is stopped. The one
    before it stays as `last-previous.ckpt`. There are no more than these two and the best ones (`save_top_k`): a run of
    weeks does not fill the disk.

    A checkpoint that cannot be written is a warning; the ones before it stay whole, and the next save tries again. A
    command whose last state could not be written ends without success.

    A folder with the `last.ckpt` of another run is refused: that would become the previous one of this run.

    A run that goes on in another folder must surpass the best ones of the folder before, as long as they are there.
    They are not removed when it does, since other runs may go on from there too.

    Args:
        every: Updates from one `last.ckpt` to the next, at least 1; what a killed run loses at most.
        kwargs: As for `ModelCheckpoint`.
    """

    def __init__(self, every: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if every < 1:
            raise ValueError(f"`every` must be at least 1, but is {every}.")
        self.every = every
        self.unsaved: str | None = None
        """Why the last state could not be written at the last attempt; None if it could."""
        self._failure: str | None = None  # of the last attempt to write any checkpoint
        self._last_update: int | None = None  # what `last.ckpt` would not be newer than
        self._in_step = False
        self._written = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Has the trainer write whole files.

        Raises:
            ValueError: The folder is not on a file system.
        """
        super().setup(trainer, pl_module, stage)
        if stage == TrainerFn.FITTING and "://" in str(self.dirpath):
            raise ValueError(
                f"`dirpath` must be a folder on a local or mounted disk, but is {self.dirpath}. Checkpoints are "
                "written beside their place and then renamed: keep them on a disk, and copy the folder from there."
            )
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses to write over the checkpoints of another run.

        Raises:
            ValueError: They are in this run's folder.
        """
        if not (trainer.fast_dev_run or self.last_model_path):  # type: ignore[attr-defined]
            refuse_another_run(Path(str(self.dirpath)), trainer.ckpt_path)

    def what_is_lost(self, update: int) -> str | None:
        """Says that the state of a run at its end, at `update`, is not on the disk; None where it is."""
        if self.unsaved is None:
            return None
        last = Path(str(self.dirpath), LAST)
        if last.exists():
            there = f"{last} is of update {self._last_update}"
        elif Path(self.best_model_path).is_file():
            there = f"there is no more than the best one, {self.best_model_path}"
        else:
            there = "no checkpoint was written"
        return (
            f"The state at update {update} could not be written ({self.unsaved}): {there}. Free space there, or take "
            "another disk with --trainer.default_root_dir."
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clears up behind the run before, and notes where this one begins: there, there is nothing to save."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            before = [] if trainer.ckpt_path is None else [Path(trainer.ckpt_path).parent]
            for folder in {Path(str(self.dirpath)), *before}:
                remove_unfinished(folder)
        if self.monitor is not None:
            self._forget_what_is_gone(trainer)
        self._last_update = trainer.global_step
        self._in_step = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keeps the loggers' count at that of the updates, which Lightning loses when it resumes at a validation."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Notes that weights are about to change."""
        self._in_step = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves the last state every so many updates."""
        self._in_step = False
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        # A validation saves at its end, with what it found.
        if trainer.global_step % self.every == 0 and not validation_follows(trainer):
            self._save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the best and the last state."""
        super().on_validation_end(trainer, pl_module)
        # The last state has to know of the best one, which Lightning may save only at the epoch's end.
        ends_epoch = trainer.fit_loop.epoch_loop._num_ready_batches_reached()
        if not (ends_epoch and self._should_save_on_train_epoch_end(trainer)):
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the last state where there was no validation, or where Lightning saves the best one only here."""
        super().on_train_epoch_end(trainer, pl_module)
        self._save_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves the last state, if it is one."""
        super().on_exception(trainer, pl_module, exception)
        # Processes save together. A stop reaches all of them, an error perhaps only one, which must not wait.
        together = trainer.world_size == 1 or isinstance(exception, SIGTERMException)
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        half_changed = self._in_step and progress.processed < progress.ready
        if together and not half_changed and not isinstance(exception, StoppedAtOnce):
            self._save_last(trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the best ones over from whatever folder; Lightning does so only from the same one."""
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})

    def _forget_what_is_gone(self, trainer: Trainer) -> None:
        scores = self.best_k_models
        best_first = sorted(scores, key=scores.__getitem__, reverse=self.mode == "max")
        # All processes decide alike on what there is.
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
            for logger in trainer.loggers:  # rows that it still holds would not be computed again
                with may_fail("The table of a logger"):
                    logger.save()
        path = Path(str(self.dirpath), LAST)
        if self._write(trainer, path, weights_only=False):
            self._last_update = trainer.global_step
            self.last_model_path = str(path)
        self.unsaved = self._failure

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        before = {name: getattr(self, name) for name in _BEST if hasattr(self, name)}
        before["best_k_models"] = dict(self.best_k_models)
        self._written = True
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        if not self._written:  # the best ones so far stay in the books
            for name, value in before.items():
                setattr(self, name, value)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self._written = self._write(trainer, filepath, self.save_weights_only)
        if self._written:
            self._last_global_step_saved = trainer.global_step
            self._last_checkpoint_saved = filepath
            if trainer.is_global_zero:
                for logger in trainer.loggers:
                    logger.after_save_checkpoint(proxy(self))

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # The name may come from the checkpoint that the run resumes from, and so from anybody.
        ours = Path(filepath).resolve().parent == Path(str(self.dirpath)).resolve() and filepath.endswith(".ckpt")
        if self._written and ours:  # else nothing has taken its place
            super()._remove_checkpoint(trainer, filepath)

    def _write(self, trainer: Trainer, path: str | Path, weights_only: bool) -> bool:
        """Saves a checkpoint; returns whether it was written, the same on all processes."""
        trainer.save_checkpoint(path, weights_only)
        writer = trainer.strategy.checkpoint_io
        failure = writer.failure if isinstance(writer, AtomicCheckpointIO) else None
        self._failure = trainer.strategy.broadcast(None if failure is None else str(failure))
        return self._failure is None


def refuse_another_run(folder: Path, ckpt_path: str | Path | None) -> None:
    """Refuses a folder with a `last.ckpt`, unless the run goes on from a checkpoint there.

    Raises:
        ValueError: It is of another run.
    """
    last = folder / LAST
    goes_on = ckpt_path is not None and Path(ckpt_path).absolute().parent == folder.absolute()
    if last.exists() and not goes_on:
        raise ValueError(
            f"`checkpoint.dirpath` must be a folder without checkpoints of another run, but {last} is there. Resume "
            f"it with --ckpt_path={last}, take another folder, or move it away."
        )


def run_checkpoint(trainer: Trainer) -> RunCheckpoint | None:
    """Returns what keeps the last state of a run, if something does."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by its connector
    return next((callback for callback in callbacks if isinstance(callback, RunCheckpoint)), None)
