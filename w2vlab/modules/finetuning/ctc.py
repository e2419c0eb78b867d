"""Fine-tuning of a pretrained model for speech recognition, with connectionist temporal classification."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from w2vlab.decoders import GreedyDecoder
from w2vlab.functional.choices import check_choice
from w2vlab.functional.ctc import alignable, ctc_loss
from w2vlab.interfaces import Decoder, DecoderFactory, MaskingFactory
from w2vlab.masking import ChannelMasking
from w2vlab.modules.checkpoints.loading import PRETRAINED
from w2vlab.modules.finetuning.pretrained import read_pretrained
from w2vlab.modules.finetuning.recognition import Recognition, Recognizer
from w2vlab.modules.sums import PREDICTIONS, Sums
from w2vlab.optim import FineTuningAdamW, TriStageSchedule
from w2vlab.types import AudioBatch, Draws, RandomAddress
from w2vlab.utils.distributed import class_name
from w2vlab.utils.messages import count
from w2vlab.vocabulary import Units, Vocabulary

_ERROR_RATES: dict[Units, dict[str, str]] = {
    "characters": {"wer": "word", "cer": "character"},
    "phones": {"per": "phone"},
}
"""The unit of each error rate, by its name in the logs."""

_NUM_EXAMPLES = 3
"""Utterances of a validation that are kept for the report."""

_log = logging.getLogger(__name__)


class CTCFineTuning(Recognizer):
    """Speech recognition: trains a linear layer on the contexts of a pretrained model, and the model with it.

    The encoder is frozen, and so is the quantizer if the inputs of the context network are codes. In the first
    `freeze_updates` updates only the linear layer is trained. The loss is connectionist temporal classification,
    averaged over the utterances of the global batch. Utterances with fewer frames than their transcript needs are
    excluded: a warning names the last one, and `unfit_utterances` in the logs is their number in an update or a
    validation.

    The vocabulary is built from the training transcripts, and saved in checkpoints.

    Args:
        checkpoint: A pretrained model of either objective, or a fine-tuned one, whose linear layer is not used: a
            checkpoint, or a file or folder of another project.
        context_options: Options of the context network that override the pretrained ones, such as dropouts.
        reinitialise: Start from random weights and train all parts, the encoder too: the baseline without
            pretraining.
        units: The units of the transcripts: `characters` of their words, or `phones`.
        masking: Builds the masking strategy of training; validation is not masked.
        decoder: Builds the decoder of the validation from the vocabulary.
        freeze_updates: Number of first updates in which only the linear layer is trained.
        train_encoder: Whether the encoder is trained as well, after `freeze_updates`; None means the value of
            `reinitialise`.
        dropout: Dropout of the contexts before the linear layer.
        optimizer: Builds the optimizer from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        seed: Seed of every random draw of the run.
        source_options: What a file of another project does not state, such as `num_heads` of a torchaudio state
            dictionary.

    Raises:
        ValueError: `checkpoint` is None, or an option does not match it.

    Reference:
        Graves et al. 2006, Connectionist Temporal Classification (ICML); Baevski et al. 2020, arXiv:2006.11477,
        Section 3.3 and Appendix B.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        context_options: dict[str, Any] | None = None,
        reinitialise: bool = False,
        units: Units = "characters",
        masking: MaskingFactory = ChannelMasking,
        decoder: DecoderFactory = GreedyDecoder,
        freeze_updates: int = 10_000,
        train_encoder: bool | None = None,
        dropout: float = 0.0,
        optimizer: OptimizerCallable = FineTuningAdamW,
        scheduler: LRSchedulerCallable = TriStageSchedule,
        seed: int = 1,
        source_options: dict[str, Any] | None = None,
    ) -> None:
        check_choice("units", units, Units)
        if freeze_updates < 0:
            raise ValueError(f"`freeze_updates` must be at least 0, but is {freeze_updates}.")
        if checkpoint is None:
            raise ValueError(
                "`checkpoint` must be given: the file of a pretrained model, such as "
                "runs/w2vlab/VERSION/checkpoints/last.ckpt."
            )
        super().__init__(
            read_pretrained(checkpoint, context_options or {}, not reinitialise, source_options),
            units,
            masking(),
            0 if reinitialise else freeze_updates,
            reinitialise if train_encoder is None else train_encoder,
            dropout,
            optimizer,
            scheduler,
            seed,
        )
        self.make_decoder = decoder
        self._decoder: Decoder | None = None
        self._num_unfit = 0
        self._unknown: set[str] = set()

    @classmethod
    def arguments_from(cls, checkpoint: Mapping[str, Any], path: Any) -> dict[str, Any]:
        """Returns the checkpoint itself as `checkpoint`, because it contains the parts of the pretrained model.

        Args:
            checkpoint: The loaded checkpoint.
            path: Its path.

        Raises:
            ValueError: It is not a checkpoint of a fine-tuning.
        """
        if PRETRAINED not in checkpoint:
            raise ValueError(f"`{PRETRAINED}` must be in a checkpoint of a fine-tuning, but is not in {path}.")
        return {"checkpoint": str(path), "source_options": None}

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Resizes the linear layer to the units of `vocabulary`, and discards the decoder.

        Raises:
            ValueError: Its units are not `units`.
        """
        if vocabulary != self.vocabulary:
            self._decoder = None
        super().set_vocabulary(vocabulary)

    @property
    def title(self) -> str:
        """The objective of the pretraining and the size of the vocabulary."""
        pretraining = str(self.pretrained_config["class_path"]).rpartition(".")[2]
        size = "" if self.vocabulary is None else f" to {len(self.vocabulary) - 1} {self.units}"
        return f"{class_name(self)} of {pretraining}{size}"

    @property
    def error_rates(self) -> Mapping[str, str]:
        """Word and character error rate, or phone error rate."""
        assert self.units is not None, "the constructor has them"
        return _ERROR_RATES[self.units]

    def draw(self, batch: AudioBatch, address: RandomAddress) -> Draws:
        """Counts the utterances of a micro-batch that have enough frames for their transcripts."""
        num_frames = [self.frontend.encoder.num_frames(samples) for samples in batch.num_samples]
        return Draws(address, sum(alignable(self._encoded(batch), num_frames)))

    def compute_loss(self, batch: AudioBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Returns the loss summed over the utterances of one micro-batch, `()`, and sums for the logs."""
        sums = self._summed_loss(self(batch, draws.address), batch, warn=True)
        return sums["total"], {**sums, "total": sums["total"].detach()}

    def _encoded(self, batch: AudioBatch) -> list[tuple[int, ...]]:
        """Returns the transcripts of a batch as entries of the vocabulary."""
        return [self._vocabulary.encode(transcript) for transcript in _transcripts(batch)]

    def _summed_loss(self, output: Recognition, batch: AudioBatch, warn: bool = False) -> dict[str, Any]:
        """Returns the loss summed over utterances, and the numbers of included and of excluded utterances."""
        self._warn_of_unknown(_transcripts(batch))
        targets = self._encoded(batch)
        fits = alignable(targets, output.num_frames)
        if warn and not all(fits):
            self._warn_of_unfit([name for name, fit in zip(batch.ids, fits, strict=True) if not fit])
        losses = ctc_loss(output.log_probabilities, targets, output.num_frames)  # (B,)
        return {"total": losses.sum(), PREDICTIONS: sum(fits), "unfit": len(fits) - sum(fits)}

    def _warn_of_unfit(self, names: list[str]) -> None:
        before = self._num_unfit
        self._num_unfit += len(names)
        if before.bit_length() != self._num_unfit.bit_length():  # at 1, 2, 4, 8, …
            _log.warning(
                "%s excluded from the loss in this process so far: the transcript is empty, or needs more frames than "
                "there are; the last was %s.",
                count(self._num_unfit, "utterance"),
                names[-1],
            )

    def _warn_of_unknown(self, transcripts: tuple[str, ...]) -> None:
        found = {unit for transcript in transcripts for unit in self._vocabulary.unknown(transcript)}
        if unknown := found - self._unknown:
            self._unknown |= unknown
            _log.warning(
                "The vocabulary, built from the transcripts of the first fine-tuning, does not have %s. The loss omits "
                "them, and error rates count them as errors.",
                ", ".join(map(repr, sorted(unknown))),
            )

    @property
    def _vocabulary(self) -> Vocabulary:
        assert self.vocabulary is not None, "`setup` sets it"
        return self.vocabulary

    def logged_means(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the mean loss of an utterance in nats, and the number of excluded utterances."""
        loss = (sums["total"] / sums[PREDICTIONS].clamp(min=1)).float()
        return {"loss/ctc": loss, "loss/total": loss, "unfit_utterances": sums["unfit"].float()}

    def on_validation_start(self) -> None:
        """Builds the decoder."""
        self._decoder = self._decoder or self.make_decoder(self._vocabulary)

    def on_fit_start(self) -> None:
        """Builds the decoder, so that an invalid option raises before training."""
        super().on_fit_start()
        self.on_validation_start()

    def on_validation_epoch_start(self) -> None:
        """Resets the counts of the validation."""
        self.set_update(self.global_step)
        self._validation = Sums(self.device)
        self.examples = []
        from torchmetrics.text import CharErrorRate, WordErrorRate  # slow to import

        # A phone error rate is a word error rate: its units are separated by spaces.
        self._errors: dict[str, WordErrorRate | CharErrorRate] = {
            name: (CharErrorRate() if name == "cer" else WordErrorRate()).to(self.device) for name in self.error_rates
        }

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        """Adds one batch to the counts."""
        assert self._decoder is not None, "`on_validation_start` builds it"
        output = self(batch)
        self._validation.add(self._summed_loss(output, batch), batch.counted)
        decoded, wanted = [], []
        if batch.counted:
            decoded = self._decoder.decode(output.log_probabilities, output.num_frames)
            wanted = list(_transcripts(batch))
        for metric in self._errors.values():
            metric.update(decoded, wanted)
        found = zip(batch.ids, wanted, decoded, strict=False)
        self.examples += list(found)[: _NUM_EXAMPLES - len(self.examples)]

    def on_validation_epoch_end(self) -> None:
        """Logs loss and error rates over all validation batches of all processes."""
        values = self.logged_means(self._validation.over_processes())
        values |= {name: metric.compute() for name, metric in self._errors.items()}
        # They are the same on all processes already; `sync_dist` keeps Lightning from warning that they may not be.
        self.log_dict({f"val/{name}": value for name, value in values.items()}, sync_dist=True)


def _transcripts(batch: AudioBatch) -> tuple[str, ...]:
    if batch.transcripts is None:
        raise ValueError(
            "Batches must have transcripts for CTCFineTuning (`SpeechDataModule.require(…, units=…)`), but have none."
        )
    return batch.transcripts
