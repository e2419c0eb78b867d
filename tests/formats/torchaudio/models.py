"""Models of torchaudio at toy size, in which no two tensors are alike, and our readings of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torchaudio

from w2vlab.formats.torchaudio import read_torchaudio
from w2vlab.modules import PretrainingModule
from w2vlab.modules.checkpoints import build_model, fill_defaults
from w2vlab.modules.sources import copy_weights
from w2vlab.types import AudioBatch

CONVS = [[16, kernel, stride] for kernel, stride in [(10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2]]

GROUP = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": CONVS,
    "extractor_conv_bias": False,
    "encoder_embed_dim": 24,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 3,
    "encoder_num_heads": 4,
    "encoder_attention_dropout": 0.2,
    "encoder_ff_interm_features": 40,
    "encoder_ff_interm_dropout": 0.3,
    "encoder_dropout": 0.4,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.05,
    "aux_num_out": None,
}
LAYER = {**GROUP, "extractor_mode": "layer_norm", "encoder_layer_norm_first": True, "extractor_conv_bias": True}

LAYOUTS = {
    "wav2vec2_base, wav2vec2_large, hubert_base": GROUP,
    "wav2vec2_large_lv60k, wav2vec2_xlsr_300m, _1b, _2b": LAYER,
    "hubert_large, hubert_xlarge": {**LAYER, "extractor_conv_bias": False},
    "group norm, bias, pre-norm": {**GROUP, "extractor_conv_bias": True, "encoder_layer_norm_first": True},
    "layer norm, post-norm, odd positions": {**LAYER, "encoder_layer_norm_first": False, "encoder_pos_conv_kernel": 7},
    "other convolutions, one group": {
        **GROUP,
        "extractor_conv_layer_config": [[8, 8, 4], [12, 5, 3], [20, 2, 1]],
        "encoder_pos_conv_groups": 1,
    },
    "equal widths": {**GROUP, "encoder_embed_dim": 16},
}


def perturbed(model, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.nan_to_num() + 0.1 * torch.randn_like(parameter))
    return model.eval()


def peer(arguments, seed=0):
    torch.manual_seed(seed)
    return perturbed(torchaudio.models.wav2vec2_model(**arguments), seed)


def options_of(arguments, **more):
    """What the shapes of a toy model do not state."""
    return {
        "num_heads": arguments["encoder_num_heads"],
        "pre_norm": arguments["encoder_layer_norm_first"],
        "strides": [stride for _, _, stride in arguments["extractor_conv_layer_config"]],
        "normalize_waveform": False,
        **more,
    }


def complete(published):
    """Fills in the defaults of options, as `read_source` does."""
    config = fill_defaults(published.config, PretrainingModule, "it", exclude=("optimizer", "scheduler"))
    return replace(published, config=config)


def read(state, arguments, source=Path("model.pt"), **more):
    return complete(read_torchaudio(state, source, options_of(arguments, **more)))


def build(published):
    model = build_model(published.config, PretrainingModule, "it")
    copy_weights(model, published, "it")
    return model.eval()


@torch.no_grad()
def contexts(model, waveform, num_samples=None):
    """The output of each Transformer layer, then the contexts."""
    layers = []
    hooks = [layer.register_forward_hook(lambda _, __, output: layers.append(output)) for layer in model.context.layers]
    samples = tuple([waveform.shape[1]] * len(waveform) if num_samples is None else num_samples)
    encoding = model.encode(AudioBatch(waveform=waveform, num_samples=samples, ids=("",) * len(samples)))
    context = model.context(model.context.project(encoding.latents), encoding.padding_mask)
    for hook in hooks:
        hook.remove()
    return [*layers, context]


@torch.no_grad()
def their_contexts(model, waveform, lengths=None):
    return [*model.extract_features(waveform, lengths)[0], model(waveform, lengths)[0]]
