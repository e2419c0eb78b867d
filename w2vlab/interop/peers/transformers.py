"""transformers, from an exported folder by `from_pretrained`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2vlab.evaluation.features.layers import layer_name
from w2vlab.interop.outputs import (
    CODES,
    CONTEXTS,
    LATENTS,
    LOGITS,
    PROJECTED_CONTEXTS,
    PROJECTED_TARGETS,
    QUANTIZED,
)
from w2vlab.interop.peers.peer import require, rows_of_units
from w2vlab.types import SAMPLE_RATE
from w2vlab.utils.plain_data import read_json
from w2vlab.vocabulary import Vocabulary


class TransformersPeer:
    """The model and the preprocessor of an exported folder.

    Args:
        folder: The folder.
        vocabulary: The units of a fine-tuned model.

    Raises:
        UnavailableError: transformers is not installed.
        ValueError: transformers has loaded the folder, but says that weights are missing or not used.
    """

    def __init__(self, folder: Path, vocabulary: Vocabulary | None) -> None:
        version = require("transformers")
        import transformers

        (architecture,) = read_json(folder / "config.json")["architectures"]
        self.name = f"{version} ({architecture})"
        self._model, loading = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
        self._model.eval()
        problems = {kind: sorted(names) for kind, names in loading.items() if names and kind.endswith("_keys")}
        if problems:
            raise ValueError(f"transformers has loaded {folder} with {problems}.")
        self._preprocess = transformers.AutoFeatureExtractor.from_pretrained(folder)
        self._rows = None
        if vocabulary is not None:
            numbers: dict[str, int] = read_json(folder / "vocab.json")
            self._rows = rows_of_units(vocabulary, sorted(numbers, key=numbers.__getitem__))
        self.remarks: tuple[str, ...] = ()

    @torch.no_grad()
    def __call__(self, waveform: Tensor) -> dict[str, Tensor]:
        """Computes the outputs of all layers for one utterance, and those of the head that the class has."""
        model = self._model
        values = self._preprocess(waveform[0].numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
        base = getattr(model, model.base_model_prefix, model)
        found = base(values, output_hidden_states=True)
        *layers, contexts = found.hidden_states
        outputs = {layer_name(number): layer for number, layer in enumerate(layers)}
        outputs |= {LATENTS: found.extract_features, CONTEXTS: contexts}
        if self._rows is not None:
            outputs[LOGITS] = model.lm_head(contexts)[..., self._rows]
        if hasattr(model, "quantizer"):
            outputs |= _pretraining_outputs(model, found.extract_features, contexts)
        return outputs


def _pretraining_outputs(model: Any, latents: Tensor, contexts: Tensor) -> dict[str, Tensor]:
    quantizer = model.quantizer
    scores = quantizer.weight_proj(latents).view(*latents.shape[:2], quantizer.num_groups, quantizer.num_vars)
    quantized, _ = quantizer(latents)
    return {
        CODES: scores.argmax(dim=-1),
        QUANTIZED: quantized,
        PROJECTED_CONTEXTS: model.project_hid(contexts),
        PROJECTED_TARGETS: model.project_q(quantized),
    }
