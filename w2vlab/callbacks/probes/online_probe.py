"""Linear phone probe during training."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from w2vlab.callbacks.history import MetricHistory
from w2vlab.callbacks.pretraining_only import require_pretraining_module
from w2vlab.callbacks.probes.probe_sizes import check_probe_sizes
from w2vlab.callbacks.whole_model import has_unsharded_model
from w2vlab.data.corpora.held_out import HASH
from w2vlab.evaluation.features.corpus import open_corpus
from w2vlab.evaluation.features.extraction import ModelFeatures, as_vectors, read_batches
from w2vlab.evaluation.features.layers import CODES, select_representations
from w2vlab.evaluation.tasks.probe import Examples, PhoneFrames, phone_rows, run_probe
from w2vlab.evaluation.tasks.unit_quality import UnitData, frame_phones, measure_units
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import AudioBatch
from w2vlab.utils.files import cache_root
from w2vlab.utils.messages import W2VLabWarning

PREFIX = "probe"
"""Prefix of all logged metrics."""

_PENALTIES = (1e-2, 1e-3)
"""L2 penalties to choose from; fewer than in an evaluation, because only the trend over updates matters here."""


class OnlineProbe(Callback):
    """Classifies phones with a linear probe on frozen features, on a fixed set of utterances.

    Each measurement logs `probe/accuracy`, the share of phones that are classified correctly in held-out utterances,
    and, if the quantizer has codes, `probe/pnmi`, the phone-normalised mutual information of phones and codes. The
    metrics are those of `w2vlab evaluate` on fewer utterances, and lower; use them to compare updates of a run.

    The run is not affected: nothing is masked or drawn, and the training mode of all modules is restored. Process 0
    does this alone; the other processes wait for it at their next update.

    Args:
        every: Updates between two measurements. There is one more before the first update and one at the end of the
            run.
        corpus: Labelled speech, in the form of `w2vlab evaluate`; downloaded once.
        layer: The features to probe: `context`, `latents`, `quantized`, `codes`, or the number of a layer.
        num_train: Maximum number of utterances that the probe is fitted to.
        num_test: Maximum number of utterances that it is tested on.
        batch_seconds: Maximum audio in a batch, in seconds, padding included.
        cache_dir: Folder of downloaded corpora; by default that of the run's data.
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
        check_probe_sizes(num_train, num_test, batch_seconds)
        self.every = every
        self.corpus = corpus
        self.layer = layer
        self.num_train = num_train
        self.num_test = num_test
        self.batch_seconds = batch_seconds
        self.cache_dir = cache_dir
        self.history = MetricHistory()
        self._active = False
        self._last_update = -1

    def state_dict(self) -> dict[str, Any]:
        """Returns the history, for the checkpoint."""
        return {"history": self.history.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the history from a checkpoint."""
        self.history.load_state_dict(state_dict["history"])
        if self.history.rows:
            self._last_update = int(self.history.rows[-1]["update"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reads the utterances into memory.

        Raises:
            ValueError: The corpus cannot be used, the model does not have the layer, the strategy shards the model, or
                the module is not a pretraining objective.
        """
        require_pretraining_module(self, pl_module)
        self._active = False
        if stage != TrainerFn.FITTING:
            return
        if not has_unsharded_model(trainer):
            raise ValueError(
                "`trainer.strategy` must keep the whole model in each process for OnlineProbe, such as ddp, "
                f"but is {type(trainer.strategy).__name__}. Remove the callback."
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
        """Measures before the first update."""
        self._measure_and_log(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures every `every` updates."""
        if trainer.global_step % self.every == 0:
            self._measure_and_log(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures after the last update."""
        self._measure_and_log(trainer, pl_module)

    def _measure_and_log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # With gradient accumulation this is called for several micro-batches of an update.
        if not self._active or trainer.global_step == self._last_update:
            return
        self._last_update = trainer.global_step
        values = self._measure(trainer, cast(PretrainingModule, pl_module))
        self.history.record(trainer.global_step, values)
        for logger in trainer.loggers:
            logger.log_metrics({f"{PREFIX}/{name}": value for name, value in values.items()}, trainer.global_step)

    def _measure(self, trainer: Trainer, module: PretrainingModule) -> dict[str, float]:
        phones, alignments = self._corpus.phones, self._corpus.alignments
        size = module.quantizer.codebook_size if module.has_codes else 0
        names = dict.fromkeys((self._name, *([CODES] if size else [])))
        features = ModelFeatures(module, tuple(names), trainer.precision_plugin.val_step_context)
        splits = {"train": Examples(), "test": Examples()}
        test = set(self._corpus.split.test)
        codes: dict[str, torch.Tensor] = {}
        spoken: dict[str, torch.Tensor] = {}
        for batch in self._batches:
            for utterance, found in features(batch):
                frames = found[self._name]
                rows: PhoneFrames = phone_rows(alignments[utterance], phones, features.grid, len(frames))
                examples = splits["test" if utterance in test else "train"]
                examples.features[utterance] = as_vectors(frames[rows.frames], size)
                examples.labels[utterance] = rows.labels
                if size and utterance in test:
                    codes[utterance] = found[CODES]
                    spoken[utterance] = frame_phones(alignments[utterance], phones, features.grid, len(frames))
        if not all(bool(torch.isfinite(f).all()) for examples in splits.values() for f in examples.features.values()):
            return {}  # `NotFinite` warns of it
        probe = run_probe(splits["train"], splits["test"], len(phones), module.device, _PENALTIES)
        values = {"accuracy": probe.accuracy}
        if size:
            data = UnitData(codes=codes, phones=spoken, codebook_size=size, num_phones=len(phones))
            joint = measure_units(data, features.grid.frames_per_second)[0]
            assert joint.pnmi is not None, "the corpus has phone labels"
            values["pnmi"] = joint.pnmi
        return values
