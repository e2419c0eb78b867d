"""Linear phone probe of a trained network, run once at the end of training."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from w2vlab.callbacks.fault_tolerance.checkpoint import find_checkpoint_to_resume
from w2vlab.callbacks.fault_tolerance.stopping import GracefulStop, signal_handler
from w2vlab.callbacks.pretraining_only import require_pretraining_module
from w2vlab.callbacks.probes.finding import ProbeResult
from w2vlab.callbacks.probes.probe_sizes import check_probe_sizes
from w2vlab.callbacks.run_folder import run_folder, warn_on_write_failure
from w2vlab.callbacks.whole_model import has_unsharded_model
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import Seconds
from w2vlab.utils.files import FINAL_PROBE, write_atomically

if TYPE_CHECKING:
    from w2vlab.evaluation.features.corpus import EvaluationCorpus
    from w2vlab.evaluation.tasks.gain import Gain

PREFIX = "final_probe"
"""Prefix of all logged metrics."""


class FinalProbe(Callback):
    """Classifies phones with a linear probe on the network's best layer, at the end of the run.

    The probe is also run on the untrained network, on its own best layer, and on MFCC, each with a confidence interval
    over test utterances. The summary table at the end of the run states which is better, and whether the difference is
    significant; `report.png` shows bars, and `final_probe.json` has all numbers.

    Layers are chosen on held-out utterances of the probe's training set, not on its test set. Exclude the test
    utterances from pretraining, as `data.exclude: festvox-ru-test` does. The untrained weights are drawn again from the
    run's seed; a checksum taken at the first update shows whether they are the same.

    The probe runs on process 0 after everything else has been saved, and does not change the run. It is skipped if the
    run is stopped. A signal during the probe ends the probe only.

    Args:
        corpus: Labelled speech, in the form of `w2vlab evaluate`; by default the corpus of the run.
        num_train: Maximum number of utterances that the probe is fitted to.
        num_test: Maximum number of utterances that it is tested on.
        batch_seconds: Maximum audio in a batch, in seconds, padding included.
        cache_dir: Folder of downloaded corpora; by default that of the run's data.
    """

    def __init__(
        self,
        corpus: str | None = None,
        num_train: int = 40,
        num_test: int = 30,
        batch_seconds: Seconds = 40.0,
        cache_dir: Path | None = None,
    ) -> None:
        super().__init__()
        check_probe_sizes(num_train, num_test, batch_seconds)
        self.corpus = corpus
        self.num_train = num_train
        self.num_test = num_test
        self.batch_seconds = batch_seconds
        self.cache_dir = cache_dir
        self.gain: Gain | None = None
        """The result of the probe; None before it has run."""
        self._first_weights: list[float] = []
        self._result: ProbeResult | None = None
        self._has_run = self._ended = False

    def state_dict(self) -> dict[str, Any]:
        """Returns the checksums of the untrained weights, for the checkpoint."""
        return {"first_weights": self._first_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the checksums from a checkpoint."""
        self._first_weights = list(state_dict["first_weights"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks the options, so that errors are raised before training.

        Raises:
            ValueError: The strategy shards the model, the module is not a pretraining objective, or the corpus cannot
                be used.
        """
        require_pretraining_module(self, pl_module)
        self._has_run = self._ended = False
        self._result = self.gain = None
        if stage != TrainerFn.FITTING:
            return
        if not has_unsharded_model(trainer):
            raise ValueError(
                "`trainer.strategy` must keep the whole model in each process for FinalProbe, such as ddp, "
                f"but is {type(trainer.strategy).__name__}. Remove the callback."
            )
        if self.corpus is not None and trainer.is_global_zero:
            self._open_corpus(cast(PretrainingModule, pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stores checksums of the untrained weights."""
        if trainer.is_global_zero and not trainer.global_step:
            self._first_weights = _weight_checksums(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Marks the run as finished, so that `teardown` runs the probe."""
        self._ended = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Runs the probe after `on_fit_end` of all callbacks; the other processes wait for process 0."""
        if not self._ended:
            return
        self._ended = False
        result = self.run(trainer, pl_module) if trainer.is_global_zero else None
        if result is not None and not any(getattr(other, "shows_findings", False) for other in trainer.callbacks):  # type: ignore[attr-defined]
            for name, text in result.rows.items():
                print(f"Phone probe, {name}: {text}", flush=True)
        trainer.strategy.barrier("final probe")

    def run(self, trainer: Trainer, module: LightningModule) -> ProbeResult | None:
        """Runs the probe once; further calls return the same result.

        Args:
            trainer: A trainer that has finished.
            module: The module that it trained.

        Returns:
            The result; None if the probe could not be run, for a reason that is printed.
        """
        if self._has_run or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return self._result
        self._has_run = True
        if any(isinstance(other, GracefulStop) and other.received for other in trainer.callbacks):  # type: ignore[attr-defined]
            print(f"Phone probe: skipped, because the run was asked to stop. {_how_to_repeat(trainer)}", flush=True)
            return None
        try:
            with signal_handler(_interrupt):
                skip_reason = self._measure(trainer, cast(PretrainingModule, module))
        except _InterruptedError as interrupt:
            skip_reason = f"stopped by {interrupt}. {_how_to_repeat(trainer)}"
        except (ValueError, OSError, RuntimeError) as problem:  # such as out of memory
            skip_reason = f"failed: {problem}"
        if skip_reason is not None:
            print(f"Phone probe: {skip_reason}", flush=True)
        return self._result

    def _measure(self, trainer: Trainer, module: PretrainingModule) -> str | None:
        """Runs the probe, or returns the reason why it cannot be run."""
        from w2vlab.callbacks.probes.final_probe_text import (
            StagePrinter,
            describe_gain,
            gain_as_plain_data,
            gain_metrics,
        )
        from w2vlab.evaluation.evaluate import random_twin
        from w2vlab.evaluation.features.corpus import seen_in_pretraining
        from w2vlab.evaluation.tasks.gain import measure_gain

        if not self._corpora(module):
            return "skipped, because the corpus of the run is unknown. Set `corpus`."
        corpus = self._open_corpus(module)
        if corpus is None:
            from w2vlab.data.corpora.sample_corpora import resolve_name

            names = [resolve_name(name, self._cache(module)) for name in self._corpora(module)]
            return f"skipped, because {' and '.join(names)} {'has' if len(names) == 1 else 'have'} no phone labels."
        with _on_device(module, trainer.strategy.root_device):
            untrained = random_twin(module, module.seed)
            if untrained is not None:
                untrained = untrained.to(next(module.parameters()).dtype)  # as the trainer's precision had it
            if untrained is not None and not _same(self._first_weights, _weight_checksums(untrained)):
                untrained = None
            gain = measure_gain(
                module, untrained, corpus, self.batch_seconds, trainer.precision_plugin.val_step_context, StagePrinter()
            )
        seen = seen_in_pretraining(module.run_config, corpus, self._cache(module))
        self.gain, self._result = gain, describe_gain(gain, len(corpus.split.test), seen)
        metrics = {f"{PREFIX}/{name}": value for name, value in gain_metrics(gain).items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step)
        with warn_on_write_failure(FINAL_PROBE):
            folder = run_folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            content = {
                "update": trainer.global_step,
                "corpus": corpus.name,
                "seen_in_pretraining": asdict(seen),
                "split": asdict(corpus.split),
                **gain_as_plain_data(gain),
            }
            write_atomically(folder / FINAL_PROBE, json.dumps(content, indent=1))
        return None

    def _corpora(self, module: PretrainingModule) -> list[str]:
        """Returns the corpora to measure on: that of the callback, or those of the run."""
        from w2vlab.data.mixtures.sources import paths_of

        data = (module.run_config or {}).get("data") or {}
        return [self.corpus] if self.corpus is not None else paths_of(data.get("corpus"))

    def _cache(self, module: PretrainingModule) -> Path:
        from w2vlab.utils.files import cache_root

        configured = ((module.run_config or {}).get("data") or {}).get("cache_dir")
        folder = self.cache_dir if self.cache_dir is not None else configured
        return cache_root(None if folder is None else Path(folder))

    def _open_corpus(self, module: PretrainingModule) -> EvaluationCorpus | None:
        """Returns the first corpus with phone labels; None if none has any."""
        from w2vlab.data.corpora.held_out import HASH
        from w2vlab.data.corpora.sample_corpora import resolve_name
        from w2vlab.evaluation.features.corpus import open_corpus

        cache = self._cache(module)
        shortest = max(module.encoder.receptive_field, 400)
        for name in self._corpora(module):
            # Resolved without a message, because the run has already logged which corpus `sample` is.
            corpus = open_corpus(resolve_name(name, cache), cache, HASH, self.num_train, self.num_test, shortest)
            if corpus.alignments:
                return corpus
        return None


class _InterruptedError(BaseException):
    """A signal arrived during the probe."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _InterruptedError(signal.Signals(number).name)


@contextmanager
def _on_device(module: LightningModule, device: torch.device) -> Iterator[None]:
    """Moves the module to the training device, because the trainer has moved it to the CPU at the end of the fit."""
    before = module.device
    module.to(device)
    try:
        yield
    finally:
        module.to(before)


def _weight_checksums(module: torch.nn.Module) -> list[float]:
    """Returns a checksum for each parameter, which differs between seeds."""
    return [float(parameter.detach().cpu().double().abs().sum()) for parameter in module.parameters()]


def _same(one: list[float], other: list[float]) -> bool:
    """Returns whether two lists of checksums are equal up to the rounding of the summation order."""
    return len(one) == len(other) and all(math.isclose(a, b, rel_tol=1e-7) for a, b in zip(one, other, strict=True))


def _how_to_repeat(trainer: Trainer) -> str:
    checkpoint = find_checkpoint_to_resume(trainer)
    command = "" if checkpoint is None else f"; to run the probe, repeat the command with --ckpt_path={checkpoint}"
    return f"The run itself is finished and saved{command}."
