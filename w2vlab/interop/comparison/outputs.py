"""The outputs of a model by name, in the terms that other projects have them, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from w2vlab.batch import AudioBatch
from w2vlab.evaluation.features.layers import layer_name
from w2vlab.functional.ctc import log_probabilities
from w2vlab.interfaces import ContextNetwork
from w2vlab.losses import ContrastiveLoss
from w2vlab.modules.finetuning.recognition import Recognizer
from w2vlab.modules.frontend import Frontend
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.representations import Representations, layer_modules, recorded_layers
from w2vlab.modules.update import TrainedModule
from w2vlab.types import Encoding

LATENTS, CONTEXTS, LOGITS, LOG_PROBABILITIES = "latents", "contexts", "logits", "log-probabilities"
CODES, QUANTIZED = "codes", "quantized latents"
PROJECTED_CONTEXTS, PROJECTED_TARGETS = "projected contexts", "projected targets"


@dataclass(frozen=True)
class Network:
    """The parts that compute contexts, of a pretrained or a fine-tuned model.

    Attributes:
        frontend: The parts before the context network.
        context: The context network.
    """

    frontend: Frontend
    context: ContextNetwork

    @classmethod
    def of(cls, module: TrainedModule) -> Network:
        """Returns the network of a model."""
        assert isinstance(module, Representations), "pretraining and fine-tuning are the only kinds of models"
        return cls(module.input_frontend(), module.context_network())

    @property
    def layer_names(self) -> list[str]:
        """`layer 0`, the input of the first layer, and the outputs of all layers but the last one."""
        return [layer_name(number) for number in range(len(layer_modules(self.context)))]

    def __call__(self, batch: AudioBatch) -> tuple[Encoding, dict[str, Tensor]]:
        """Computes the frames before the context network, the inputs of its layers by name, and `contexts`."""
        layers: dict[str, Tensor] = {}

        def record(number: int, frames: Tensor) -> None:
            layers[layer_name(number)] = frames

        with recorded_layers(self.context, range(len(layer_modules(self.context))), record):
            encoding = self.frontend(batch)
            context = self.context(self.context.project(encoding.latents), encoding.padding_mask)  # (B, T, D)
        return encoding, {**layers, CONTEXTS: context}


def as_batch(waveforms: Sequence[Tensor], min_samples: int = 1) -> AudioBatch:
    """Pads waveforms of shape `(S,)` to a batch; one of fewer than `min_samples` samples is extended by silence."""
    num_samples = tuple(max(len(waveform), min_samples) for waveform in waveforms)
    padded = pad_sequence(list(waveforms), batch_first=True)  # (B, S)
    padded = nn.functional.pad(padded, (0, max(num_samples) - padded.shape[1]))
    return AudioBatch(waveform=padded, num_samples=num_samples, ids=tuple(map(str, range(len(waveforms)))))


@torch.no_grad()
def compute_outputs(module: TrainedModule, waveform: Tensor) -> dict[str, Tensor]:
    """Computes all outputs of a model in evaluation mode for one utterance.

    Args:
        module: The model.
        waveform: Shape `(1, S)`.

    Returns:
        `latents`, `layer 0` to the input of the last layer, and `contexts`; of a fine-tuned model also `logits` and
        `log-probabilities`; of a model with codebooks `codes` and `quantized latents`, and with the contrastive loss
        the projections that it compares.
    """
    batch = as_batch(list(waveform))
    encoding, outputs = Network.of(module)(batch)
    if isinstance(module, Recognizer):
        logits = module.head(outputs[CONTEXTS])
        outputs |= {LOGITS: logits, LOG_PROBABILITIES: log_probabilities(logits)}
        return {LATENTS: encoding.latents, **outputs}
    assert isinstance(module, PretrainingModule), "there is no other kind of model"
    encoding = module.encode(batch)
    outputs = {LATENTS: encoding.latents, **outputs}
    if module.has_codes:
        quantized = module.quantize(batch, encoding)
        outputs |= {CODES: quantized.assignment, QUANTIZED: quantized.quantized}
        if isinstance(module.loss, ContrastiveLoss):
            outputs[PROJECTED_CONTEXTS] = module.loss.context_projection(outputs[CONTEXTS])
            targets = module.loss.target_projection(outputs[QUANTIZED])
            outputs[PROJECTED_TARGETS] = module.loss.target_head(targets)
    return outputs
