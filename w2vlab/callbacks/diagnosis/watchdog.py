"""Detects the collapse of a run, reports it with suggested fixes, and optionally stops or rolls back the run."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from dataclasses import asdict
from typing import Any, Literal, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from w2vlab.callbacks.diagnosis.cures import RunSettings, SuggestedFix, suggest_fixes
from w2vlab.callbacks.diagnosis.healthy_states import HealthyStates
from w2vlab.callbacks.diagnosis.readings import (
    Reading,
    TaskSettings,
    get_run_settings,
    get_task_settings,
    make_reading,
    reduce_metrics,
)
from w2vlab.callbacks.diagnosis.signature import Detection
from w2vlab.callbacks.diagnosis.signatures import diagnose, make_signatures
from w2vlab.callbacks.pretraining_only import require_pretraining_module
from w2vlab.callbacks.run_folder import run_folder, warn_on_write_failure
from w2vlab.callbacks.whole_model import has_unsharded_model
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.utils.files import write_atomically
from w2vlab.utils.messages import count
from w2vlab.utils.resume_point import updates_of_run

logger = logging.getLogger(__name__)

_FILE = "collapse.json"

_LONGEST_WINDOW = 500
_LONGEST_PATIENCE = 5000


class CollapseWatchdog(Callback):
    """Detects signatures of collapse and divergence in the training metrics, and reports them with suggested fixes.

    Each signature is reported once, and again after it has not been detected for a window:

    * `not_finite`: the loss is NaN or infinite;
    * `collapsed`: every codebook uses one code, so that all distractors equal the true target, and the loss is 0 if
      these are excluded;
    * `uninformed`: the loss stays at chance level, ln(K + 1) (4.615 nats, which is 6.658 bits, for K = 100);
    * `few_codes`: the perplexity is at its minimum, G for all codebooks together;
    * `equal_negatives`: a rising share of distractors equals the true target;
    * `always_right`, `at_chance`: the accuracy stays at 1, or at chance level; for a regression, the share of variance
      that is explained stays at 1;
    * `constant_targets`: a teacher computes the same for all frames of an utterance;
    * `constant_predictions`: a regression predicts the same for all frames of an utterance;
    * `copied_targets`: without masks, the student of a teacher copies its input.

    Signatures that follow from another one are not reported in addition. Alerts are logged, sent to Weights & Biases
    if that is the logger, and written to `collapse.json` in the run folder, which has all alerts of the run; a healthy
    run has no such file. Metrics are means over the processes (with gradient accumulation, of the last micro-batch of
    an update), so that all processes take the same action.

    With `action: restore`, weights and optimiser state are restored from one to two windows before the collapse, from
    snapshots in CPU memory (three times the size of a checkpoint). The update count, and with it schedules, data, masks
    and noise, continues, so that the same updates are not repeated. Snapshots are not stored in checkpoints. If there
    is no healthy snapshot, and after `max_restores`, the run is stopped.

    Args:
        every: Updates between two readings of the metrics; each reading synchronises with the device.
        window: Updates that a signature must last; None for a hundredth of the run, between 50 and 500.
        patience: Updates in which a model may be at chance level; None for a tenth of the run, between two windows and
            5000 updates.
        action: Action in addition to the report: none (`warn`), stop the run (`stop`) or restore a healthy snapshot
            (`restore`).
        max_restores: Maximum number of restores.
        loss_tolerance: Maximum distance of the loss from chance level, in nats.
        chance_tolerance: Multiple of chance level up to which an accuracy counts as chance level.
        perplexity_share: Share of the range from one code (0) to uniform usage (1) up to which a perplexity counts as
            minimal.
        equal_share: Share of distractors equal to the true target from which on a rise is reported.
        pinned_accuracy: Accuracy, or explained share of variance, that counts as 1.
        constant_share: Variance over time of targets or predictions, as a share of their mean square, up to which they
            count as constant.
        copied_share: Accuracy, or explained share of variance, that counts as copying if no frame is masked.

    Reference:
        The signatures: fairseq issues 3718, 3744 and 3687, transformers issue 14387. Restoring and continuing with
        other data: Chowdhery et al. 2022, arXiv:2204.02311, Section 5.1.
    """

    def __init__(
        self,
        every: int = 10,
        window: int | None = None,
        patience: int | None = None,
        action: Literal["warn", "stop", "restore"] = "warn",
        max_restores: int = 3,
        loss_tolerance: float = 0.02,
        chance_tolerance: float = 1.2,
        perplexity_share: float = 0.01,
        equal_share: float = 0.5,
        pinned_accuracy: float = 0.99,
        constant_share: float = 0.01,
        copied_share: float = 0.9,
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be at least 1, but is {every}.")
        if window is not None and window < 2 * every:
            raise ValueError(f"`window` must be at least twice `every` ({every}), but is {window}.")
        if patience is not None and patience < 0:
            raise ValueError(f"`patience` must not be negative, but is {patience}.")
        if action not in ("warn", "stop", "restore"):
            raise ValueError(f"`action` must be warn, stop or restore, but is {action}.")
        if max_restores < 1:
            raise ValueError(f"`max_restores` must be at least 1, but is {max_restores}.")
        self.every = every
        self.window = window
        self.patience = patience
        self.action = action
        self.max_restores = max_restores
        self.signatures = make_signatures(
            loss_tolerance=loss_tolerance,
            chance_tolerance=chance_tolerance,
            perplexity_share=perplexity_share,
            equal_share=equal_share,
            pinned_accuracy=pinned_accuracy,
            constant_share=constant_share,
            copied_share=copied_share,
        )
        self.events: list[dict[str, Any]] = []
        self._reported: dict[str, int] = {}  # the last update at which each signature was detected
        self._num_restores = 0
        self._readings: deque[Reading] = deque()
        self._length = 0
        self._patience = 0
        self._last_update = -1
        self._next_snapshot = 0
        self._states = HealthyStates()

    def state_dict(self) -> dict[str, Any]:
        """Returns readings and reports, for the checkpoint."""
        return {
            "readings": [asdict(reading) for reading in self._readings],
            "told": self._reported,
            "events": self.events,
            "num_restores": self._num_restores,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores readings and reports from a checkpoint."""
        self._readings = deque(Reading(**reading) for reading in state_dict["readings"])
        self._reported = dict(state_dict["told"])
        self.events = list(state_dict["events"])
        self._num_restores = state_dict["num_restores"]
        if self._readings:
            self._last_update = self._readings[-1].update

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks the module and the strategy.

        Raises:
            ValueError: `action` is restore and the strategy shards the model, or the module is not a pretraining
                objective.
        """
        require_pretraining_module(self, pl_module)
        if self.action == "restore" and not has_unsharded_model(trainer):
            raise ValueError(
                "`action` must be warn or stop if the model is sharded "
                f"({type(trainer.strategy).__name__}), but is restore."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets window and patience, whose defaults depend on the length of the run."""
        known = updates_of_run(trainer)
        updates = math.inf if known is None else known
        window = self.window or int(min(max(updates / 100, 50, 2 * self.every), _LONGEST_WINDOW))
        self._length = max(2, window // self.every)
        self._patience = int(max(min(updates / 10, _LONGEST_PATIENCE), 2 * window))
        if self.patience is not None:
            self._patience = self.patience
        self._readings = deque(self._readings, maxlen=self._length)
        if known is not None and known < window and trainer.is_global_zero:
            logger.warning(
                "CollapseWatchdog: `window` (%d) is longer than the run (%s), so most signatures cannot be detected. "
                "Lower it.",
                window,
                count(known, "update"),
            )
        self._next_snapshot = trainer.global_step
        if window <= updates < self._patience and trainer.is_global_zero:
            names = ", ".join(signature.name for signature in self.signatures if signature.needs_patience)
            logger.warning(
                "CollapseWatchdog: `patience` (%d) is longer than the run (%s), so a model that learns nothing cannot "
                "be detected (%s). Lower it.",
                self._patience,
                count(int(updates), "update"),
                names,
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Reads the metrics every `every` updates, and reports new signatures."""
        update = trainer.global_step
        # With gradient accumulation this is called for several micro-batches of an update.
        if update == 0 or update % self.every or update == self._last_update:
            return
        self._last_update = update
        module = cast(PretrainingModule, pl_module)
        values = reduce_metrics(trainer, module)
        self._readings.append(make_reading(update, values))
        task = get_task_settings(module)
        detections = diagnose(self._readings, task, self.signatures, self._length, self._patience)
        new = self._select_new(update, detections)
        if new:
            done = self._apply_action(trainer, module)
            self._report(trainer, new, done, get_run_settings(trainer, module, values))
        elif self.action == "restore" and not detections:
            self._save_snapshot(trainer, module, task)

    def _select_new(self, update: int, detections: list[Detection]) -> list[Detection]:
        """Returns detections that were not reported in the last window; those that a reported one implies count too."""
        window = self._length * self.every
        self._reported = {name: last for name, last in self._reported.items() if update - last <= window}
        new = [detection for detection in detections if detection.name not in self._reported]
        for detection in detections:
            self._reported |= dict.fromkeys((detection.name, *detection.implies), update)
        return new

    def _save_snapshot(self, trainer: Trainer, module: PretrainingModule, task: TaskSettings) -> None:
        """Saves a snapshot every window, if no signature is detected even with a patience of 0."""
        if diagnose(self._readings, task, self.signatures, self._length, patience=0):
            self._states.discard_unconfirmed()
            self._next_snapshot = trainer.global_step
        elif trainer.global_step >= self._next_snapshot and len(self._readings) == self._length:
            self._states.confirm_and_save(trainer.global_step, module, trainer.optimizers[0])
            self._next_snapshot = trainer.global_step + self._length * self.every

    def _apply_action(self, trainer: Trainer, module: PretrainingModule) -> str:
        """Applies `action`, and returns a sentence that describes its effect."""
        if self.action == "warn":
            return "The run continues."
        # After a restore, or a stop and a resume, only new readings may count.
        self._readings.clear()
        self._reported.clear()
        if self.action == "restore" and len(self._states) and self._num_restores < self.max_restores:
            self._num_restores += 1
            update = self._states.restore(module, trainer.optimizers[0])
            self._next_snapshot = trainer.global_step
            return (
                f"Weights and optimiser of update {update} were restored "
                f"({self._num_restores} of {self.max_restores} restores)."
            )
        trainer.should_stop = True
        if self.action == "stop":
            return "The run is stopped."
        if len(self._states):
            return f"All {count(self.max_restores, 'restore')} (`max_restores`) were used: the run is stopped."
        return "There is no healthy snapshot to restore: the run is stopped."

    def _report(self, trainer: Trainer, detections: list[Detection], done: str, settings: RunSettings) -> None:
        if not trainer.is_global_zero:
            return
        for detection in detections:
            fixes = suggest_fixes(detection.name, settings)
            text = _format_alert(detection, fixes, done)
            logger.warning("CollapseWatchdog, update %d: %s", trainer.global_step, text)
            self.events.append(
                {
                    "update": trainer.global_step,
                    "signature": detection.name,
                    "seen": detection.message,
                    "done": done,
                    "cures": [{"what": fix.description, "flags": fix.flags} for fix in fixes],
                }
            )
            for log in trainer.loggers:
                if isinstance(log, WandbLogger):
                    with warn_on_write_failure("The alert to Weights & Biases"):
                        log.experiment.alert(
                            title=f"{detection.name} at update {trainer.global_step}", text=text, level="WARN"
                        )
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with warn_on_write_failure(_FILE):
                folder = run_folder(trainer)
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / _FILE, json.dumps({"events": self.events}, indent=1))


def _format_alert(detection: Detection, fixes: list[SuggestedFix], done: str) -> str:
    lines = [f"{detection.message} {done}"]
    if fixes:
        lines += ["Suggested fixes:", *(f"  {fix.flags}   ({fix.description})" for fix in fixes)]
    return "\n".join(lines)
