"""torchaudio's `Wav2Vec2Model`, from an exported state dictionary and the arguments in the file beside it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from w2vlab.evaluation.features.layers import layer_name
from w2vlab.formats import PublishedModel
from w2vlab.formats.torchaudio.labels import arranged
from w2vlab.interop.comparison.outputs import CONTEXTS, LOGITS
from w2vlab.interop.comparison.peers.peer import normalized, require, waveform_eps
from w2vlab.utils.plain_data import read_json


class TorchaudioPeer:
    """The model that `torchaudio.models.wav2vec2_model` builds.

    Args:
        path: The exported state dictionary.
        model: What was exported.

    Raises:
        UnavailableError: torchaudio is not installed.
    """

    def __init__(self, path: Path, model: PublishedModel) -> None:
        self.name = f"{require('torchaudio')} (Wav2Vec2Model)"
        from torchaudio.models import wav2vec2_model

        content = read_json(path.with_suffix(".json"))
        self._model = wav2vec2_model(**content["arguments"]).eval()
        self._model.load_state_dict(_read(path))
        self._eps = waveform_eps(model.config) if content["normalize_waveform"] else None
        self._rows = None if model.vocabulary is None else arranged(content["labels"])[1]
        self.remarks: tuple[str, ...] = ()

    @torch.no_grad()
    def __call__(self, waveform: Tensor) -> dict[str, Tensor]:
        """Computes contexts and the outputs of all layers for one utterance, and logits if the model has units."""
        if self._eps is not None:  # as its pipelines do before the model
            waveform = normalized(waveform, self._eps)
        layers, _ = self._model.extract_features(waveform)  # from `layer 1` on
        outputs = {layer_name(number): layer for number, layer in enumerate(layers[:-1], start=1)}
        features, _ = self._model.feature_extractor(waveform, None)
        outputs[CONTEXTS] = self._model.encoder(features)
        if self._rows is not None:
            outputs[LOGITS] = self._model(waveform)[0][..., self._rows]
        return outputs


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)
    return weights
