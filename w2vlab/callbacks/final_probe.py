"""What a run has taught its network of phones, measured once at its end."""

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

from w2vlab.callbacks.pretraining_only import refuse_other_modules
from w2vlab.callbacks.run_folder import may_fail, run_folder
from w2vlab.callbacks.run_view import Finding
from w2vlab.callbacks.stopping import GracefulStop, handling
from w2vlab.callbacks.whole_model import keeps_whole_model
from w2vlab.files import FINAL_PROBE, write_whole
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import Seconds

if TYPE_CHECKING:
    from w2vlab.evaluation.corpus import EvaluationCorpus
    from w2vlab.evaluation.gain import Gain

PREFIX = "final_probe"
"""Of everything that is logged."""

_REPEAT = "The run itself is finished and saved; the same command with --ckpt_path=last measures again."


class FinalProbe(Callback):
    """Names phones with a linear classifier of the network's best layer, when the run has come to its end.

    Beside it stand the same network before training, by its own best layer, and cepstra (MFCC), each with an interval
    over test utterances. The table at the end of the run says in words which is better, and whether that is
    beyond the interval; `report.png` has bars, `final_probe.json` everything.

    Layers are chosen on utterances that the classifier learns from, not on those it is tested on. Leave these out of
    the pretraining, as `data.exclude: festvox-ru-test` does. Weights before training are drawn again from the run's
    seed; a check made at the first update tells whether they are the same.

    It is done after all else has been saved, by the first process alone, and changes no number of the run. A run that
    is stopped is not measured. A signal while it measures ends the measurement and not more.

    Args:
        corpus: Labelled speech, as `w2vlab evaluate` takes it; by default that of the run.
        num_train: Most utterances that the classifier learns from.
        num_test: Most utterances that it is tested on.
        batch_seconds: Most audio in a batch, in seconds, padding counted.
        cache_dir: Where fetched corpora are; by default as for the run's own data.
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
        for name, number, least in (("num_train", num_train, 2), ("num_test", num_test, 1)):
            if number < least:
                raise ValueError(f"`{name}` must be at least {least}, but is {number}.")
        if batch_seconds <= 0:
            raise ValueError(f"`batch_seconds` must be positive, but is {batch_seconds}.")
        self.corpus = corpus
        self.num_train = num_train
        self.num_test = num_test
        self.batch_seconds = batch_seconds
        self.cache_dir = cache_dir
        self.gain: Gain | None = None
        """What was measured."""
        self._first_weights: list[float] = []
        self._finding: Finding | None = None
        self._looked = self._ended = False

    def state_dict(self) -> dict[str, Any]:
        """Returns what the weights before training can be recognised by, for the checkpoint."""
        return {"first_weights": self._first_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it over from a checkpoint."""
        self._first_weights = list(state_dict["first_weights"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes sure that the end will not be too late to find out.

        Raises:
            ValueError: No process has the whole model, the model is not pretrained, or the corpus cannot be used.
        """
        refuse_other_modules(self, pl_module)
        self._looked = self._ended = False
        self._finding = self.gain = None
        if stage != TrainerFn.FITTING:
            return
        if not keeps_whole_model(trainer):
            raise ValueError(
                "`trainer.strategy` must keep the whole model in each process for FinalProbe, such as ddp, "
                f"but is {type(trainer.strategy).__name__}. Take the callback out."
            )
        if self.corpus is not None and trainer.is_global_zero:
            self._open(cast(PretrainingModule, pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes what the weights before training can be recognised by."""
        if trainer.is_global_zero and not trainer.global_step:
            self._first_weights = _signature(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the run has come to its end."""
        self._ended = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Measures, when all callbacks have done what they do at the end; other processes wait for the first one."""
        from w2vlab.callbacks.report import RunReport

        if not self._ended:
            return
        self._ended = False
        found = self.look(trainer, pl_module) if trainer.is_global_zero else None
        if found is not None and not any(isinstance(other, RunReport) for other in trainer.callbacks):  # type: ignore[attr-defined]
            for name, text in found.rows.items():
                print(f"Phone probe, {name}: {text}", flush=True)
        trainer.strategy.barrier("final probe")

    def look(self, trainer: Trainer, module: LightningModule) -> Finding | None:
        """Measures, once; where there is nothing to measure, says why, and returns nothing.

        Args:
            trainer: Has finished.
            module: What it trained.
        """
        if self._looked or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return self._finding
        self._looked = True
        if any(isinstance(other, GracefulStop) and other.received for other in trainer.callbacks):  # type: ignore[attr-defined]
            print(f"Phone probe: left out, because the run was asked to stop. {_REPEAT}", flush=True)
            return None
        try:
            with handling(_interrupt):
                why_not = self._measure(trainer, cast(PretrainingModule, module))
        except _InterruptedError as interrupt:
            why_not = f"stopped by {interrupt}. {_REPEAT}"
        except (ValueError, OSError, RuntimeError) as problem:  # such as memory that is not there
            why_not = f"not done: {problem}"
        if why_not is not None:
            print(f"Phone probe: {why_not}", flush=True)
        return self._finding

    def _measure(self, trainer: Trainer, module: PretrainingModule) -> str | None:
        """Measures, or returns why not."""
        from w2vlab.callbacks.final_probe_text import Lines, as_plain, finding, logged
        from w2vlab.evaluation.corpus import seen_in_pretraining
        from w2vlab.evaluation.evaluate import random_twin
        from w2vlab.evaluation.gain import measure_gain

        if self._corpus_of(module) is None:
            return "skipped, because the run's data are not known. Give `corpus`."
        corpus = self._open(module)
        if not corpus.alignments:
            return f"skipped, because {corpus.name} has no phone labels."
        with _on_device(module, trainer.strategy.root_device):
            before = random_twin(module, module.seed)
            if before is not None:
                before = before.to(next(module.parameters()).dtype)  # as the trainer's precision had it
            if before is not None and not _same(self._first_weights, _signature(before)):
                before = None
            gain = measure_gain(
                module, before, corpus, self.batch_seconds, trainer.precision_plugin.val_step_context, Lines()
            )
        seen = seen_in_pretraining(module.run_config, corpus, self._cache(module))
        self.gain, self._finding = gain, finding(gain, len(corpus.split.test), seen)
        for logger in trainer.loggers:
            logger.log_metrics({f"{PREFIX}/{name}": value for name, value in logged(gain).items()}, trainer.global_step)
        with may_fail(FINAL_PROBE):
            folder = run_folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            content = {
                "update": trainer.global_step,
                "corpus": corpus.name,
                "seen_in_pretraining": asdict(seen),
                "split": asdict(corpus.split),
                **as_plain(gain),
            }
            write_whole(folder / FINAL_PROBE, json.dumps(content, indent=1))
        return None

    def _corpus_of(self, module: PretrainingModule) -> str | None:
        data = (module.run_config or {}).get("data") or {}
        return self.corpus if self.corpus is not None else data.get("corpus")

    def _cache(self, module: PretrainingModule) -> Path:
        from w2vlab.files import cache_root

        configured = ((module.run_config or {}).get("data") or {}).get("cache_dir")
        folder = self.cache_dir if self.cache_dir is not None else configured
        return cache_root(None if folder is None else Path(folder))

    def _open(self, module: PretrainingModule) -> EvaluationCorpus:
        from w2vlab.data.corpora import resolve_name
        from w2vlab.data.held_out import HASH
        from w2vlab.evaluation.corpus import open_corpus

        name, cache = self._corpus_of(module), self._cache(module)
        assert name is not None, "the caller has made sure"
        shortest = max(module.encoder.receptive_field, 400)
        # What `sample` stands for was said when the run began.
        return open_corpus(resolve_name(name, cache), cache, HASH, self.num_train, self.num_test, shortest)


class _InterruptedError(BaseException):
    """A signal came while a finished run was measured."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _InterruptedError(signal.Signals(number).name)


@contextmanager
def _on_device(module: LightningModule, device: torch.device) -> Iterator[None]:
    """Takes the module back to where it was trained: the trainer has taken it to the host at the end of the fit."""
    before = module.device
    module.to(device)
    try:
        yield
    finally:
        module.to(before)


def _signature(module: torch.nn.Module) -> list[float]:
    """Returns a number for each parameter, which those of another seed do not have."""
    return [float(parameter.detach().cpu().double().abs().sum()) for parameter in module.parameters()]


def _same(one: list[float], other: list[float]) -> bool:
    """Tells whether two signatures are those of the same weights, however many threads have added them up."""
    return len(one) == len(other) and all(math.isclose(a, b, rel_tol=1e-7) for a, b in zip(one, other, strict=True))
