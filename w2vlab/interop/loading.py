"""`w2vlab.load`: a model of any source, ready for features and codes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from w2vlab.modules import CTCFineTuning, PretrainingModule
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.sources import read_source
from w2vlab.utils.messages import W2VLabWarning


def load(
    source: str | Path,
    options: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> PretrainingModule | CTCFineTuning:
    """Loads a model of this project or of another one, in evaluation mode.

    The format is detected by what the file contains, not by its name:

    * a checkpoint of `w2vlab fit` or `w2vlab import`, of a pretraining or of a fine-tuning;
    * a checkpoint of fairseq (`.pt`, of Hydra or of argparse): wav2vec, vq-wav2vec, wav2vec 2.0, pretrained or
      fine-tuned by CTC. It is read without running code in it, and neither fairseq nor omegaconf is imported;
    * a folder that transformers' `save_pretrained` wrote, or a model of the Hugging Face Hub that is on this machine
      (its folder, or `hf:` and its name): wav2vec 2.0 in every layout, HuBERT, and those that share their Transformer;
    * a state dictionary of torchaudio's wav2vec 2.0;
    * safetensors that `w2vlab export` wrote.

    Weights are copied one tensor at a time, so that a model is never held twice. Parts for which the source has no
    weights, such as the loss of a model without one, are initialized alike in every process.

    Args:
        source: Path of a file or a folder, or `hf:` and a name.
        options: What the file does not state, such as `{"num_heads": 12}` for a state dictionary.
        device: Device of the model.
        dtype: Type of the weights, such as `torch.bfloat16`; None for float32, whatever the file has.

    Returns:
        The model in evaluation mode: `MaskedPrediction` (wav2vec 2.0, HuBERT), `FuturePrediction` (wav2vec,
        vq-wav2vec), or `CTCFineTuning` (with a vocabulary). All of them have

        * `features(waveform, num_samples=None, layers=None)`: contexts `(B, T, D)`, or a dictionary by layer;
        * `codes(waveform, num_samples=None)`: the chosen codebook entries `(B, T, G)`, int64; `ValueError` if the model
          has no codebooks, as HuBERT and fine-tuned models;
        * `num_frames(num_samples)`: frames of an utterance.

        Waveforms are floats in [-1, 1] at 16 kHz, `(S,)` or `(B, S)`.

    Raises:
        ValueError: The source is missing, damaged, of an unknown format, would run code, or has something that this
            project cannot express, which is named; or `dtype` is not a floating-point type.

    Example:
        >>> model = w2vlab.load("runs/w2vlab/version_0/checkpoints/last.ckpt")
        >>> contexts = model.features(waveform)  # (1, T, D)
        >>> layers = model.features(waveform, layers=[0, 6, 12])  # {0: (1, T, D), 6: …, 12: …}
        >>> codes = model.codes(waveform)  # (1, T, G)
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"`dtype` must be a floating-point type, such as torch.bfloat16, but is {dtype}.")
    published = read_source(source, options)
    module = build_model_of(published, source, options, dtype)
    for note in published.origin.notes:
        warnings.warn(f"{source}: {note}", category=W2VLabWarning, stacklevel=2)
    loaded: PretrainingModule | CTCFineTuning = module.to(device)  # type: ignore[assignment]
    return loaded
