"""What a model knows of phones, measured while it is trained."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from w2vlab.callbacks.history import MetricHistory
from w2vlab.callbacks.pretraining_only import refuse_other_modules
from w2vlab.callbacks.probe_sizes import check_sizes
from w2vlab.callbacks.whole_model import keeps_whole_model
from w2vlab.data.held_out import HASH
from w2vlab.evaluation.corpus import open_corpus
from w2vlab.evaluation.extraction import ModelFeatures, as_vectors, read_batches
from w2vlab.evaluation.layers import CODES, select_representations
from w2vlab.evaluation.probe import Examples, PhoneFrames, phone_rows, run_probe
from w2vlab.evaluation.unit_quality import UnitData, frame_phones, measure_units
from w2vlab.files import cache_root
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import AudioBatch
from w2vlab.wording import W2VLabWarning

PREFIX = "probe"
"""Of everything that is logged."""

_PENALTIES = (1e-2, 1e-3)
"""Fewer than an evaluation tries: this is to be seen over updates, not to be reported."""


class OnlineProbe(Callback):
    """Names phones with a linear classifier of frozen features, on the same few utterances again and again.

    A look logs `probe/accuracy`, the share of phones that are named right in utterances the classifier was not fitted
    to, and, where there are codes, `probe/pnmi`: which share of the uncertainty about the phone goes when the code is
    known. The figures are those of `w2vlab evaluate` on fewer utterances, and lower; their course is what they are for.

    The run does not notice: nothing is masked or drawn, and what was training is training afterwards. The first process
    does this alone: the others wait for it at their next update.

    Args:
        every: Updates between two looks. There is one more before the first update and one at the end of the run.
        corpus: Labelled speech, as `w2vlab evaluate` takes it; fetched once.
        layer: What the classifier sees: `context`, `latents`, `quantized`, `codes`, or the number of a layer.
        num_train: Most utterances that the classifier is fitted to.
        num_test: Most utterances that are measured on.
        batch_seconds: Most audio in a batch, in seconds, padding counted.
        cache_dir: Where fetched corpora are; by default as for the run's own data.
    """

    def __init__(
        self,
        every: int = 1000,
        corpus: str = "festvox-ru",
        layer: str = "context",
        num_train: int = 40,
        num_test: int = 20,
        batch_seconds: float = 40.0,
        cache_dir: Path | None = None,
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be at least 1, but is {every}.")
        check_sizes(num_train, num_test, batch_seconds)
        self.every = every
        self.corpus = corpus
        self.layer = layer
        self.num_train = num_train
        self.num_test = num_test
        self.batch_seconds = batch_seconds
        self.cache_dir = cache_dir
        self.history = MetricHistory()
        self._active = False
        self._looked_at = -1

    def state_dict(self) -> dict[str, Any]:
        """Returns the history, for the checkpoint."""
        return {"history": self.history.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the history of a checkpoint."""
        self.history.load_state_dict(state_dict["history"])
        if self.history.rows:
            self._looked_at = int(self.history.rows[-1]["update"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reads the utterances, which stay in memory.

        Raises:
            ValueError: The corpus cannot be used, the layer is not there, no process has the whole model, or the model
                is not pretrained.
        """
        refuse_other_modules(self, pl_module)
        self._active = False
        if stage != TrainerFn.FITTING:
            return
        if not keeps_whole_model(trainer):
            raise ValueError(
                "`trainer.strategy` must keep the whole model in each process for OnlineProbe, such as ddp, "
                f"but is {type(trainer.strategy).__name__}. Take the callback out."
            )
        if not trainer.is_global_zero:
            return
        module = cast(PretrainingModule, pl_module)
        names = select_representations(module, self.layer)
        if len(names) != 1:
            raise ValueError(f"`layer` must be one representation, but is {self.layer}.")
        (self._name,) = names
        cache = cache_root(self.cache_dir)
        shortest = max(module.encoder.receptive_field, 400)
        self._corpus = open_corpus(self.corpus, cache, HASH, self.num_train, self.num_test, shortest)
        if not self._corpus.alignments:
            warnings.warn(
                f"OnlineProbe has no effect: {self.corpus} has no phone labels.", category=W2VLabWarning, stacklevel=2
            )
            return
        split = self._corpus.split
        cuts = self._corpus.select((*split.train, *split.test))
        self._batches: list[AudioBatch] = [batch for batch, _ in read_batches(cuts, self.batch_seconds)]
        self._active = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks before the first update."""
        self._look(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks every `every` updates."""
        if trainer.global_step % self.every == 0:
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks once more."""
        self._look(trainer, pl_module)

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # With accumulation an update has several batches.
        if not self._active or trainer.global_step == self._looked_at:
            return
        self._looked_at = trainer.global_step
        values = self._measure(trainer, cast(PretrainingModule, pl_module))
        self.history.record(trainer.global_step, values)
        for logger in trainer.loggers:
            logger.log_metrics({f"{PREFIX}/{name}": value for name, value in values.items()}, trainer.global_step)

    def _measure(self, trainer: Trainer, module: PretrainingModule) -> dict[str, float]:
        phones, alignments = self._corpus.phones, self._corpus.alignments
        size = module.quantizer.codebook_size if module.quantizer.num_codebooks else 0
        names = dict.fromkeys((self._name, *([CODES] if size else [])))
        features = ModelFeatures(module, tuple(names), trainer.precision_plugin.val_step_context)
        sides = {"train": Examples(), "test": Examples()}
        test = set(self._corpus.split.test)
        codes: dict[str, torch.Tensor] = {}
        spoken: dict[str, torch.Tensor] = {}
        for batch in self._batches:
            for utterance, found in features(batch):
                frames = found[self._name]
                rows: PhoneFrames = phone_rows(alignments[utterance], phones, features.grid, len(frames))
                side = sides["test" if utterance in test else "train"]
                side.features[utterance] = as_vectors(frames[rows.frames], size)
                side.labels[utterance] = rows.labels
                if size and utterance in test:
                    codes[utterance] = found[CODES]
                    spoken[utterance] = frame_phones(alignments[utterance], phones, features.grid, len(frames))
        if not all(bool(torch.isfinite(f).all()) for side in sides.values() for f in side.features.values()):
            return {}  # weights that are not finite are told of elsewhere
        probe = run_probe(sides["train"], sides["test"], len(phones), module.device, _PENALTIES)
        values = {"accuracy": probe.accuracy}
        if size:
            data = UnitData(codes=codes, phones=spoken, codebook_size=size, num_phones=len(phones))
            joint = measure_units(data, features.grid.frames_per_second)[0]
            assert joint.pnmi is not None, "there are phones"
            values["pnmi"] = joint.pnmi
        return values
