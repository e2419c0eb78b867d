"""transformers, from an exported folder by `from_pretrained`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2vlab.evaluation.features.layers import layer_name
from w2vlab.formats import PublishedModel
from w2vlab.interop.comparison.outputs import (
    CODES,
    CONTEXTS,
    LATENTS,
    LOGITS,
    PROJECTED_CONTEXTS,
    PROJECTED_TARGETS,
    QUANTIZED,
)
from w2vlab.interop.comparison.peers.peer import normalized, require, rows_of_units, waveform_eps
from w2vlab.types import SAMPLE_RATE
from w2vlab.utils.plain_data import read_json

_ROUNDING = 1e-5
"""Deviation of normalized waveforms above which the epsilons differ."""


class TransformersPeer:
    """The model and the preprocessor of an exported folder.

    Args:
        folder: The folder.
        model: What was exported.

    Raises:
        UnavailableError: transformers is not installed.
        ValueError: transformers has loaded the folder, but says that weights are missing or not used.
    """

    def __init__(self, folder: Path, model: PublishedModel) -> None:
        version = require("transformers")
        transformers: Any = import_module("transformers")
        (architecture,) = read_json(folder / "config.json")["architectures"]
        self.name = f"{version} ({architecture})"
        with _without_progress_bar():
            loaded = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
        self._model, loading = loaded
        self._model.float().eval()  # transformers keeps the type of the file, and the waveforms are float32
        problems = {kind: sorted(names) for kind, names in loading.items() if names and kind.endswith("_keys")}
        if problems:
            raise ValueError(f"transformers has loaded {folder} with {problems}.")
        self._preprocess = transformers.AutoFeatureExtractor.from_pretrained(folder)
        self._eps = waveform_eps(model.config)
        self._deviation = 0.0  # of the waveforms after the preprocessor
        self._rows = None
        if hasattr(self._model, "lm_head"):
            assert model.vocabulary is not None, "only such a model has this layer"
            numbers: dict[str, int] = read_json(folder / "vocab.json")
            self._rows = rows_of_units(model.vocabulary, sorted(numbers, key=numbers.__getitem__))

    @property
    def remarks(self) -> tuple[str, ...]:
        """That waveforms were normalized as the model does it, if the preprocessor differs."""
        if not self._deviation:
            return ()
        return (
            f"The outputs are of waveforms that were normalized with w2vlab's epsilon, {self._eps:g}; after the "
            f"preprocessor of the folder these waveforms differ by up to {self._deviation:.1e}.",
        )

    @torch.no_grad()
    def __call__(self, waveform: Tensor) -> dict[str, Tensor]:
        """Computes the outputs of all layers for one utterance, and those of the head that the class has."""
        model = self._model
        values = self._preprocess(waveform[0].numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
        if self._eps is not None:
            own = normalized(waveform, self._eps)
            difference = (values - own).abs().max().item()
            if difference > _ROUNDING:
                self._deviation, values = max(self._deviation, difference), own
        base = getattr(model, model.base_model_prefix, model)
        found = base(values, output_hidden_states=True)
        # The last hidden state is not the last of `hidden_states` if a norm follows the layers (pre-norm).
        contexts = found.last_hidden_state
        outputs = {layer_name(number): layer for number, layer in enumerate(found.hidden_states[:-1])}
        outputs[CONTEXTS] = contexts
        if hasattr(found, "extract_features"):  # not of HuBERT
            outputs[LATENTS] = found.extract_features
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


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    logging: Any = import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
