"""Models of transformers with random weights at toy size, as folders, and the same models opened by us."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from w2vlab.batch import AudioBatch
from w2vlab.formats import PublishedModel
from w2vlab.formats.transformers import read_transformers
from w2vlab.modules.checkpoints import build_model, fill_defaults
from w2vlab.modules.masked_prediction import MaskedPrediction
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.sources import copy_weights

SMALL: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "conv_dim": (16, 16, 20),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "num_codevectors_per_group": 6,
    "codevector_dim": 8,
    "proj_codevector_dim": 10,
    "num_negatives": 7,
}
"""20 samples a frame, 40 of which it sees."""

LARGE: dict[str, Any] = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
"""The layout of LARGE and XLS-R."""

LAYOUTS: dict[str, dict[str, Any]] = {
    "base": {},
    "large": LARGE,
    "group norm, pre-norm": {"do_stable_layer_norm": True},
    "layer norm, post-norm": {"feat_extract_norm": "layer"},
    "group norm with biases": {"conv_bias": True},
    "one codebook": {"num_codevector_groups": 1, **LARGE},
    "equal widths": {"hidden_size": 20},
    "odd positional convolution": {"num_conv_pos_embeddings": 5},
}

CHARACTERS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "E": 5, "T": 6, "A": 7}
"""The first entries of `facebook/wav2vec2-base-960h`."""


def peer(name: str, seed: int = 0, **options: Any) -> Any:
    """Builds a model of transformers in evaluation mode, with random numbers in all of its parameters."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    family = name.partition("For")[0].removesuffix("Model")
    known = dict(SMALL, **options)
    config = getattr(transformers, f"{family}Config")(**known)
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():  # norms and biases are ones and zeros in a new model
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def saved(model: Any, folder: Path, do_normalize: bool | None = False, **files: Any) -> Path:
    """Saves a model as its users do, with a preprocessor (None for none) and other JSON files."""
    model.save_pretrained(folder)
    if do_normalize is not None:
        preprocessor = {"do_normalize": do_normalize, "sampling_rate": 16_000, "return_attention_mask": True}
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def filled(model: PublishedModel, source: object = "test") -> PublishedModel:
    """Returns a model with all options, as `read_source` does."""
    config = fill_defaults(model.config, PretrainingModule, source, exclude=("optimizer", "scheduler"))
    return replace(model, config=config)


def built(model: PublishedModel, source: object = "test") -> MaskedPrediction:
    """Builds the pretraining model, in evaluation mode."""
    module: MaskedPrediction = build_model(model.config, PretrainingModule, source)
    copy_weights(module, model, source)
    return module.eval()


def opened(folder: Path) -> MaskedPrediction:
    """Reads a folder and builds its model."""
    return built(read_transformers(folder))


def batch(waveform: Tensor, num_samples: Sequence[int] | None = None) -> AudioBatch:
    """Returns waveforms `(B, S)` as a batch."""
    lengths = tuple(num_samples or (waveform.shape[1],) * len(waveform))
    return AudioBatch(waveform=waveform, num_samples=lengths, ids=tuple(map(str, range(len(waveform)))))


@torch.no_grad()
def hidden_states(module: MaskedPrediction, waveform: Tensor, num_samples: Sequence[int] | None = None) -> list[Tensor]:
    """Returns the input of the first layer, the outputs of all layers but the last one, and the contexts.

    In transformers these are `hidden_states[:-1]` and `last_hidden_state`. For pre-norm models the last of
    `hidden_states` is another: it is before the final norm.
    """
    found: list[Tensor] = []
    layers = module.context.layers
    hooks = [layers[0].register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))]
    hooks += [layer.register_forward_hook(lambda _, __, output: found.append(output)) for layer in layers]
    encoding = module.encode(batch(waveform, num_samples))
    context = module.context(module.context.project(encoding.latents), encoding.padding_mask)
    for hook in hooks:
        hook.remove()
    return [*found[:-1], context]


def head_of(model: PublishedModel) -> nn.Linear:
    """Returns the linear layer of a model fine-tuned by CTC."""
    weight = model.weights["head.weight"]
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": weight, "bias": model.weights["head.bias"]})
    return head
