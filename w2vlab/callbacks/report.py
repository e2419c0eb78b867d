"""The report at the end of a run, and its picture all along."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from w2vlab.callbacks.cost import RunCost
from w2vlab.callbacks.examples import show_examples
from w2vlab.callbacks.final_probe import FinalProbe
from w2vlab.callbacks.history import MetricHistory
from w2vlab.callbacks.metric_log import MetricLog
from w2vlab.callbacks.readings import guess_loss
from w2vlab.callbacks.report_wandb import log_usage, wandb_folders, wandb_loggers
from w2vlab.callbacks.run_folder import continues, may_fail, run_folder, save_picture
from w2vlab.callbacks.run_view import Finding, RunView
from w2vlab.callbacks.summary import print_summary, summarize
from w2vlab.files import REPORT, write_whole
from w2vlab.modules.update import TrainedModule

_DRAWING_SHARE = 0.03
"""Most of a run's time that pictures between its validations may take."""

_NO_CHECKPOINT = "no checkpoint was written"


class RunReport(Callback):
    """Says at the end of a run what came out, and draws it.

    After a validation, but for one before the first update, `report.png` and `report.json` in the run's folder are
    written anew (rarely, where validations follow each other fast), and the picture goes to Weights & Biases, if that
    is the logger; so do, after each validation, the usage of the codebooks and a few transcripts beside what was
    recognised, where a model does that. At the end, also of an interrupted run, a short table follows on the terminal.
    What `FinalProbe` measures at the end of a whole run, if the run has one, is added when all that is written. A
    resumed run continues the history in its checkpoint.
    Every recorded row is appended to `metrics.jsonl` at once, with the time and the audio that it took to get there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.train = MetricHistory()
        self.validation = MetricHistory()
        self.cost = RunCost()
        self._log = MetricLog()
        self._next_drawing = 0.0
        self._ended = False
        self._paths: dict[str, str] = {}
        self._folder: str | None = None  # of the run; of the one that wrote the checkpoint, until training begins

    def state_dict(self) -> dict[str, Any]:
        """Returns the history, for the checkpoint."""
        return {
            "train": self.train.state_dict(),
            "validation": self.validation.state_dict(),
            **self.cost.state_dict(),
            "folder": self._folder,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the history of a checkpoint."""
        self.train.load_state_dict(state_dict["train"])
        self.validation.load_state_dict(state_dict["validation"])
        self.cost.load_state_dict(state_dict)
        self._folder = state_dict.get("folder")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.cost.start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the file of all rows."""
        self.cost.begin(trainer.global_step)
        if trainer.is_global_zero and not _is_trial(trainer):
            kinds = {"train": self.train.rows, "validation": self.validation.rows}
            update = trainer.global_step if continues(trainer, self._folder) else None
            folder = run_folder(trainer)
            self._folder = str(folder.absolute())
            with may_fail("The file of all metrics"):
                self._log.begin(folder, kinds, update)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Records the metrics of training as often as they are logged."""
        self.cost.add(trainer, batch)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step and trainer.global_step % every == 0:
            self._record_training(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the last update, which may not have been logged."""
        self._record_training(trainer)

    def _record_training(self, trainer: Trainer) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._record(trainer, "train", self.train, {**_metrics(trainer, "train/"), "learning_rate": float(rate)})

    def _record(self, trainer: Trainer, kind: str, history: MetricHistory, metrics: dict[str, float]) -> None:
        values = {**self.cost.so_far(), **metrics}
        history.record(trainer.global_step, values)
        with may_fail("The file of all metrics"):
            self._log.record(kind, {"update": trainer.global_step, **values})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the metrics of a validation and brings the picture up to date."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        self._record(trainer, "validation", self.validation, _metrics(trainer, "val/"))
        if trainer.is_global_zero and not _is_trial(trainer):
            view = self._view(trainer, pl_module)
            log_usage(trainer, view.code_counts)
            show_examples(cast(TrainedModule, pl_module).examples, wandb_loggers(trainer), trainer.global_step)
            if trainer.global_step in (0, trainer.max_steps):  # one point is no curve; the last one is the report's
                return
            start = time.monotonic()
            if start >= self._next_drawing:
                with may_fail("The report"):
                    self._write(trainer, view)
                end = time.monotonic()
                self._next_drawing = end + (end - start) / _DRAWING_SHARE

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports."""
        self._ended = True
        self.cost.stop()
        if trainer.is_global_zero:
            self._paths = self._publish(trainer, self._view(trainer, pl_module))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prints the table, when all is saved; with what is measured at the end, which the report then has too."""
        if not self._ended:
            return
        self._ended = False
        if trainer.is_global_zero:
            found = [probe.look(trainer, pl_module) for probe in trainer.callbacks if isinstance(probe, FinalProbe)]  # type: ignore[attr-defined]
            view = self._view(trainer, pl_module, next(filter(None, found), None))
            if view.finding is not None:
                self._paths = self._publish(trainer, view)
            print_summary(view.title, summarize(view, self.cost.seconds), self._paths)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Reports if the run was stopped from outside; an error needs the terminal for itself."""
        stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException) and trainer.state.fn == TrainerFn.FITTING
        if stopped and trainer.is_global_zero:
            view = self._view(trainer, pl_module)
            paths = self._publish(trainer, view)
            if paths.get("checkpoints") == _NO_CHECKPOINT:
                del paths["checkpoints"]  # the last state is saved only now
            print_summary(view.title, summarize(view, self.cost.seconds), paths)

    def _publish(self, trainer: Trainer, view: RunView) -> dict[str, str]:
        """Writes the report; returns where everything of the run is."""
        if _is_trial(trainer):
            return {}
        paths = _paths(trainer)
        with may_fail("The report"):
            paths["picture"] = str(self._write(trainer, view))
        return paths

    def _view(self, trainer: Trainer, pl_module: LightningModule, finding: Finding | None = None) -> RunView:
        module = cast(TrainedModule, pl_module)
        return RunView(
            title=f"{module.title}, update {trainer.global_step}",
            train=self.train,
            validation=self.validation,
            num_candidates=module.num_candidates,
            code_counts=module.codebook_counts,
            num_codes=module.num_codes,
            error_rates=module.error_rates,
            guess_loss=guess_loss(module),
            finding=finding,
        )

    def _write(self, trainer: Trainer, view: RunView) -> Path:
        from w2vlab.callbacks.picture import draw_run  # with matplotlib, which only a drawing waits for

        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        picture = folder / "report.png"
        save_picture(draw_run(view), picture, dpi=100)
        content = {
            "summary": summarize(view, self.cost.seconds),
            "cost": self.cost.total(trainer.global_step, self.train),
            "train": self.train.rows,
            "validation": self.validation.rows,
        }
        write_whole(folder / REPORT, json.dumps(content, indent=1))
        for logger in wandb_loggers(trainer):
            logger.log_image("report", [str(picture)], step=trainer.global_step)
        return picture


def _metrics(trainer: Trainer, prefix: str) -> dict[str, float]:
    return {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}


def _is_trial(trainer: Trainer) -> bool:
    """Tells whether this is only a try of a few batches, which leaves nothing behind."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _paths(trainer: Trainer) -> dict[str, str]:
    paths = {}
    checkpoint = trainer.checkpoint_callback
    if isinstance(checkpoint, ModelCheckpoint):
        folder = str(checkpoint.dirpath)
        written = "://" in folder or any(Path(folder).glob("*.ckpt"))
        paths["checkpoints"] = folder if written else _NO_CHECKPOINT
    for folder in wandb_folders(trainer):
        paths["Weights & Biases"] = folder
    return paths
