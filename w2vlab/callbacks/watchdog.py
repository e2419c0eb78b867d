"""Sees a run collapse, says so, and does something about it if it may."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from dataclasses import asdict
from typing import Any, Literal, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from w2vlab.callbacks.cures import Cure, RunFacts, cures
from w2vlab.callbacks.healthy_states import HealthyStates
from w2vlab.callbacks.pretraining_only import refuse_other_modules
from w2vlab.callbacks.readings import Reading, Setting, facts_of, reading_of, reduced_metrics, setting_of
from w2vlab.callbacks.run_folder import may_fail, run_folder
from w2vlab.callbacks.signatures import (
    AlwaysRight,
    AtChance,
    Collapsed,
    EqualNegatives,
    FewCodes,
    Finding,
    NotFinite,
    Signature,
    Uninformed,
    diagnose,
)
from w2vlab.callbacks.whole_model import keeps_whole_model
from w2vlab.files import write_whole
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.place import updates_of_run
from w2vlab.wording import count

logger = logging.getLogger(__name__)

_FILE = "collapse.json"

_LONGEST_WINDOW = 500
_LONGEST_PATIENCE = 5000


class CollapseWatchdog(Callback):
    """Knows what a collapsing run looks like, and says in words what it sees and what usually helps.

    It reads the logs of training and tells, once each until it has been away for a window:

    * `not_finite`: the loss is NaN or infinite;
    * `collapsed`: every codebook uses one code, so all negatives equal the true target, and the loss is 0 where these
      are excluded;
    * `uninformed`: the loss is pinned at that of a guess, ln(K + 1) (4.615 nats, which is 6.658 bits, for K = 100);
    * `few_codes`: the perplexity has fallen to its floor, G in sum;
    * `equal_negatives`: more and more negatives equal the true target;
    * `always_right`, `at_chance`: the accuracy is pinned at 1, or at chance.

    What follows from another one is not told beside it. An alert goes to the terminal, to Weights & Biases if that is
    the logger, and with everything said so far to `collapse.json` in the run's folder; a healthy run has no such file.
    Values are means over the processes (with accumulation, of the last micro-batch of an update), so that all processes
    decide alike.

    Restoring loads weights and the optimiser's memory as they were one to two windows before the trouble, from copies
    on the host (three times what a checkpoint takes). Everything else goes on: the update count, and with it schedules,
    data, masks and noise, so the same updates are not simply repeated. The copies are not in checkpoints. Without a
    healthy state to go back to, and after `max_restores`, the run is stopped.

    Args:
        every: Updates between two readings; each one waits for the device.
        window: Updates that a signature must last; None for a hundredth of the run, between 50 and 500.
        patience: Updates during which a model may know nothing yet; None for a tenth of the run, between two windows
            and 5000 updates.
        action: What to do beside telling: nothing (`warn`), end the run (`stop`) or go back to a healthy state
            (`restore`).
        max_restores: How often to go back at most.
        loss_tolerance: How near to that of a guess a loss is pinned, in nats.
        chance_tolerance: How many times chance is still no better than chance.
        perplexity_share: How far up from a single code each (0) to all codes alike (1) a perplexity is at its floor.
        equal_share: Share of negatives equal to the true target from which on its rise is told.
        pinned_accuracy: Accuracy from which on every prediction counts as right.

    Reference:
        The signatures: fairseq issues 3718, 3744 and 3687, transformers issue 14387. Going back and on with other data:
        Chowdhery et al. 2022, arXiv:2204.02311, Section 5.1.
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
        if loss_tolerance <= 0:
            raise ValueError(f"`loss_tolerance` must be above 0, but is {loss_tolerance}.")
        if chance_tolerance < 1:
            raise ValueError(f"`chance_tolerance` must be at least 1, but is {chance_tolerance}.")
        shares = {
            "perplexity_share": perplexity_share,
            "equal_share": equal_share,
            "pinned_accuracy": pinned_accuracy,
        }
        for name, share in shares.items():
            if not 0 < share < 1:
                raise ValueError(f"`{name}` must be between 0 and 1, but is {share}.")
        self.every = every
        self.window = window
        self.patience = patience
        self.action = action
        self.max_restores = max_restores
        # In the order in which they explain each other.
        self.signatures: tuple[Signature, ...] = (
            NotFinite(),
            Collapsed(perplexity_share),
            Uninformed(loss_tolerance),
            FewCodes(perplexity_share),
            EqualNegatives(equal_share),
            AlwaysRight(pinned_accuracy),
            AtChance(chance_tolerance),
        )
        self.events: list[dict[str, Any]] = []
        self._told: dict[str, int] = {}
        self._num_restores = 0
        self._readings: deque[Reading] = deque()
        self._length = 0
        self._patience = 0
        self._read_at = -1
        self._next_offer = 0
        self._states = HealthyStates()

    def state_dict(self) -> dict[str, Any]:
        """Returns what was read and told, for the checkpoint."""
        return {
            "readings": [asdict(reading) for reading in self._readings],
            "told": self._told,
            "events": self.events,
            "num_restores": self._num_restores,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with what a checkpoint had read and told."""
        self._readings = deque(Reading(**reading) for reading in state_dict["readings"])
        self._told = dict(state_dict["told"])
        self.events = list(state_dict["events"])
        self._num_restores = state_dict["num_restores"]
        if self._readings:
            self._read_at = self._readings[-1].update

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses to restore what no process has as a whole.

        Raises:
            ValueError: The strategy shards the model, or the model is not pretrained.
        """
        refuse_other_modules(self, pl_module)
        if self.action == "restore" and not keeps_whole_model(trainer):
            raise ValueError(
                "`action` must be warn or stop where the model is sharded "
                f"({type(trainer.strategy).__name__}), but is restore."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settles what depends on the length of the run."""
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
                "CollapseWatchdog: `window` (%d) is longer than the run (%s), so little can be seen. Lower it.",
                window,
                count(known, "update"),
            )
        self._next_offer = trainer.global_step
        if window <= updates < self._patience and trainer.is_global_zero:
            patient = ", ".join(signature.name for signature in self.signatures if signature.needs_patience)
            logger.warning(
                "CollapseWatchdog: `patience` (%d) is longer than the run (%s), so it cannot be seen that nothing is "
                "learned (%s). Lower it.",
                self._patience,
                count(int(updates), "update"),
                patient,
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Reads the logs, every `every` updates."""
        update = trainer.global_step
        # With accumulation an update has several batches.
        if update == 0 or update % self.every or update == self._read_at:
            return
        self._read_at = update
        module = cast(PretrainingModule, pl_module)
        values = reduced_metrics(trainer, module)
        self._readings.append(reading_of(update, values))
        setting = setting_of(module)
        findings = diagnose(self._readings, setting, self.signatures, self._length, self._patience)
        new = self._news(update, findings)
        if new:
            self._tell(trainer, new, self._act(trainer, module), facts_of(trainer, module, values))
        elif self.action == "restore" and not findings:
            self._keep(trainer, module, setting)

    def _news(self, update: int, findings: list[Finding]) -> list[Finding]:
        """Returns what was not told yet, or not seen for a window; what follows from something told counts as told."""
        window = self._length * self.every
        self._told = {name: seen for name, seen in self._told.items() if update - seen <= window}
        new = [finding for finding in findings if finding.name not in self._told]
        for finding in findings:
            self._told |= dict.fromkeys((finding.name, *finding.explains), update)
        return new

    def _keep(self, trainer: Trainer, module: PretrainingModule, setting: Setting) -> None:
        """Saves a state a window; it must have learned something, however early it is."""
        if diagnose(self._readings, setting, self.signatures, self._length, patience=0):
            self._states.doubt()
            self._next_offer = trainer.global_step
        elif trainer.global_step >= self._next_offer and len(self._readings) == self._length:
            self._states.offer(trainer.global_step, module, trainer.optimizers[0])
            self._next_offer = trainer.global_step + self._length * self.every

    def _act(self, trainer: Trainer, module: PretrainingModule) -> str:
        """Does what is to be done, and says what was."""
        if self.action == "warn":
            return "The run goes on."
        # A restored run, and a stopped one that is resumed, must be judged by what comes now.
        self._readings.clear()
        self._told.clear()
        if self.action == "restore" and len(self._states) and self._num_restores < self.max_restores:
            self._num_restores += 1
            update = self._states.go_back(module, trainer.optimizers[0])
            self._next_offer = trainer.global_step
            return f"Back to weights and optimiser of update {update} ({self._num_restores} of {self.max_restores})."
        trainer.should_stop = True
        if self.action == "stop":
            return "The run is stopped."
        if len(self._states):
            return f"The run has gone back as often as it may (`max_restores`: {self.max_restores}) and is stopped."
        return "There is no healthy state to go back to: the run is stopped."

    def _tell(self, trainer: Trainer, findings: list[Finding], done: str, facts: RunFacts) -> None:
        if not trainer.is_global_zero:
            return
        for finding in findings:
            advice = cures(finding.name, facts)
            text = _text(finding, advice, done)
            logger.warning("CollapseWatchdog, update %d: %s", trainer.global_step, text)
            self.events.append(
                {
                    "update": trainer.global_step,
                    "signature": finding.name,
                    "seen": finding.words,
                    "done": done,
                    "cures": [asdict(cure) for cure in advice],
                }
            )
            for log in trainer.loggers:
                if isinstance(log, WandbLogger):
                    with may_fail("The alert to Weights & Biases"):
                        log.experiment.alert(
                            title=f"{finding.name} at update {trainer.global_step}", text=text, level="WARN"
                        )
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with may_fail(_FILE):
                folder = run_folder(trainer)
                folder.mkdir(parents=True, exist_ok=True)
                write_whole(folder / _FILE, json.dumps({"events": self.events}, indent=1))


def _text(finding: Finding, advice: list[Cure], done: str) -> str:
    lines = [f"{finding.words} {done}"]
    if advice:
        lines += ["What usually helps:", *(f"  {cure.flags}   ({cure.what})" for cure in advice)]
    return "\n".join(lines)
