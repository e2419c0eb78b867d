"""Report of a run: metric history, figure, and a summary table at the end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from w2vlab.callbacks.diagnosis.readings import compute_chance_loss
from w2vlab.callbacks.history import MetricHistory
from w2vlab.callbacks.probes.final_probe import FinalProbe
from w2vlab.callbacks.probes.finding import ProbeResult
from w2vlab.callbacks.records.cost import RunCost
from w2vlab.callbacks.records.examples import log_examples
from w2vlab.callbacks.records.metric_log import MetricLog
from w2vlab.callbacks.records.report_wandb import log_codebook_usage, wandb_folders, wandb_loggers
from w2vlab.callbacks.records.run_view import RunView
from w2vlab.callbacks.records.summary import print_summary, summarize
from w2vlab.callbacks.run_folder import resumes_in_same_folder, run_folder, save_picture, warn_on_write_failure
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.sums import SHARE
from w2vlab.modules.update import TrainedModule
from w2vlab.utils.files import REPORT, write_atomically

_DRAWING_SHARE = 0.03
"""Maximum share of the run's time that drawing after validations may take."""

_NO_CHECKPOINT = "no checkpoint was written"


class RunReport(Callback):
    """Records the metrics of a run, draws them, and prints a summary at the end.

    After each validation except one before the first update, `report.png` and `report.json` in the run folder are
    rewritten (less often if validations are frequent), and the figure is logged to Weights & Biases, if that is the
    logger. After each validation, codebook usage and, for recognition, a few transcripts with the recognised text are
    logged there too. At the end, also of an interrupted run, a summary table is printed. The result of `FinalProbe`, if
    the run has one, is added at the end. A resumed run continues the history of its checkpoint.
    Every recorded row is appended to `metrics.jsonl` at once, with the time and the audio used so far.
    """

    shows_findings = True
    """For `FinalProbe`, which prints its result if no callback shows it."""

    shows_limit = True
    """For `ThroughputMonitor`, which logs what limited the run if no callback shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.train = MetricHistory()
        self.validation = MetricHistory()
        self.cost = RunCost()
        self._log = MetricLog()
        self._next_drawing = 0.0
        self._ended = False
        self._paths: dict[str, str] = {}
        self._folder: str | None = None  # the run folder; before training starts, that of the resumed checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Returns the history, for the checkpoint."""
        return {
            "train": self.train.state_dict(),
            "validation": self.validation.state_dict(),
            **self.cost.state_dict(),
            "folder": self._folder,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the history from a checkpoint."""
        self.train.load_state_dict(state_dict["train"])
        self.validation.load_state_dict(state_dict["validation"])
        self.cost.load_state_dict(state_dict)
        self._folder = state_dict.get("folder")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.cost.start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens `metrics.jsonl`."""
        self.cost.begin(trainer.global_step)
        if trainer.is_global_zero and not _is_fast_dev_run(trainer):
            kinds = {"train": self.train.rows, "validation": self.validation.rows}
            update = trainer.global_step if resumes_in_same_folder(trainer, self._folder) else None
            folder = run_folder(trainer)
            self._folder = str(folder.absolute())
            with warn_on_write_failure("metrics.jsonl"):
                self._log.begin(folder, kinds, update)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Records the training metrics every `log_every_n_steps` updates."""
        self.cost.add(trainer, batch)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step and trainer.global_step % every == 0:
            self._record_training(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the metrics of the last update, which may not have been recorded."""
        self._record_training(trainer)

    def _record_training(self, trainer: Trainer) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._record(trainer, "train", self.train, {**_metrics(trainer, "train/", SHARE), "learning_rate": float(rate)})

    def _record(self, trainer: Trainer, kind: str, history: MetricHistory, metrics: dict[str, float]) -> None:
        values = {**self.cost.current(), **metrics}
        history.record(trainer.global_step, values)
        with warn_on_write_failure("metrics.jsonl"):
            self._log.record(kind, {"update": trainer.global_step, **values})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the validation metrics and updates the figure."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        self._record(trainer, "validation", self.validation, _metrics(trainer, "val/"))
        if trainer.is_global_zero and not _is_fast_dev_run(trainer):
            view = self._view(trainer, pl_module)
            log_codebook_usage(trainer, view.code_counts)
            log_examples(cast(TrainedModule, pl_module).examples, wandb_loggers(trainer), trainer.global_step)
            if trainer.global_step in (0, trainer.max_steps):  # one point is not a curve; `on_fit_end` draws the last
                return
            start = time.monotonic()
            if start >= self._next_drawing:
                with warn_on_write_failure("The report"):
                    self._write(trainer, view)
                end = time.monotonic()
                self._next_drawing = end + (end - start) / _DRAWING_SHARE

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the report."""
        self._ended = True
        self.cost.stop()
        if trainer.is_global_zero:
            self._paths = self._publish(trainer, self._view(trainer, pl_module))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Runs the final probe, adds its result to the report, and prints the table."""
        if not self._ended:
            return
        self._ended = False
        if trainer.is_global_zero:
            results = [probe.run(trainer, pl_module) for probe in trainer.callbacks if isinstance(probe, FinalProbe)]  # type: ignore[attr-defined]
            view = self._view(trainer, pl_module, next(filter(None, results), None))
            if view.probe is not None:
                self._paths = self._publish(trainer, view)
            print_summary(view.title, summarize(view, self.cost.seconds), self._paths)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes the report and prints the table if the run was stopped by a signal, but not after an error."""
        stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException) and trainer.state.fn == TrainerFn.FITTING
        if stopped and trainer.is_global_zero:
            view = self._view(trainer, pl_module)
            paths = self._publish(trainer, view)
            if paths.get("checkpoints") == _NO_CHECKPOINT:
                del paths["checkpoints"]  # `last.ckpt` is saved after this callback
            print_summary(view.title, summarize(view, self.cost.seconds), paths)

    def _publish(self, trainer: Trainer, view: RunView) -> dict[str, str]:
        """Writes the report; returns the paths of figure, checkpoints and W&B files."""
        if _is_fast_dev_run(trainer):
            return {}
        paths = _paths(trainer)
        with warn_on_write_failure("The report"):
            paths["picture"] = str(self._write(trainer, view))
        return paths

    def _view(self, trainer: Trainer, pl_module: LightningModule, probe: ProbeResult | None = None) -> RunView:
        module = cast(TrainedModule, pl_module)
        return RunView(
            title=f"{module.title}, update {trainer.global_step}",
            train=self.train,
            validation=self.validation,
            num_candidates=module.num_candidates,
            code_counts=module.codebook_counts,
            num_codes=module.num_codes,
            error_rates=module.error_rates,
            chance_loss=compute_chance_loss(module),
            probe=probe,
            losses=_names_of_losses(module),
            planned_shares={plan.name: plan.share for plan in getattr(trainer.datamodule, "mixture", ())},  # type: ignore[attr-defined]
        )

    def _write(self, trainer: Trainer, view: RunView) -> Path:
        from w2vlab.callbacks.records.picture import draw_run  # imports matplotlib, which is slow

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
        write_atomically(folder / REPORT, json.dumps(content, indent=1))
        for logger in wandb_loggers(trainer):
            logger.log_image("report", [str(picture)], step=trainer.global_step)
        return picture


def _names_of_losses(module: TrainedModule) -> tuple[str, ...]:
    names = tuple(module.loss.terms) if isinstance(module, PretrainingModule) else ()
    return names if len(names) > 1 else ()


def _metrics(trainer: Trainer, *prefixes: str) -> dict[str, float]:
    return {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith(prefixes)}


def _is_fast_dev_run(trainer: Trainer) -> bool:
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
