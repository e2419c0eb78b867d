"""Checkpoints in fairseq's layouts with random weights at toy widths, and how the tests read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2vlab.formats import PublishedModel
from w2vlab.formats.fairseq import is_fairseq, read_fairseq
from w2vlab.formats.files.pickles import read_pickle
from w2vlab.modules import PretrainingModule
from w2vlab.modules.checkpoints import fill_defaults

LAYERS = "[(6, 10, 5)] + [(6, 3, 2)] * 2 + [(6,2,2)]"

WAV2VEC2: dict[str, Any] = {
    "_name": "wav2vec2",
    "conv_feature_layers": LAYERS,
    "encoder_layers": 2,
    "encoder_embed_dim": 8,
    "encoder_ffn_embed_dim": 12,
    "encoder_attention_heads": 2,
    "conv_pos": 4,
    "conv_pos_groups": 2,
    "final_dim": 4,
    "latent_vars": 3,
    "quantize_targets": True,
    "mask_length": 2,
    "num_negatives": 5,
}

XLSR = WAV2VEC2 | {
    "extractor_mode": "layer_norm",
    "conv_bias": True,
    "layer_norm_first": True,
    "latent_dim": 6,
    "checkpoint_activations": True,
    "latent_temp": "(2.0, 0.1, 0.999995)",
}


def read(path: Path, **options: Any) -> PublishedModel:
    content = read_pickle(path)
    assert is_fairseq(content)
    return read_fairseq(content, path, options)


def filled(model: PublishedModel, path: Path) -> PublishedModel:
    """With every option, as a writer gets it."""
    return replace(
        model, config=fill_defaults(model.config, PretrainingModule, path, exclude=("optimizer", "scheduler"))
    )


def tensors_of(options: dict[str, Any], heads: bool = True, prefix: str = "") -> dict[str, Tensor]:
    """Random tensors by the names and shapes of fairseq's wav2vec 2.0, written down from its constructors."""
    o = {"extractor_mode": "default", "conv_bias": False, "latent_dim": 0, "quantizer_depth": 1, "target_glu": False}
    o |= {"quantizer_factor": 3, "quantize_input": False, "same_quantizer": False, "pos_conv_depth": 1} | options
    width, inner, final = o["encoder_embed_dim"], o["encoder_ffn_embed_dim"], o["final_dim"]
    shapes: dict[str, tuple[int, ...]] = {"mask_emb": (width,)}

    def affine(name: str, *weight: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = weight
        if bias:
            shapes[f"{name}.bias"] = weight[:1]

    def quantizer(name: str, embed: int, vq_dim: int) -> None:
        groups, entries, depth = 2, o["latent_vars"], o["quantizer_depth"]
        shapes[f"{name}.vars"] = (1, groups * entries, vq_dim // groups)
        hidden = embed * o["quantizer_factor"]
        for layer in range(depth - 1):
            affine(f"{name}.weight_proj.{layer}.0", hidden, embed if layer == 0 else hidden)
        last = f"{name}.weight_proj" if depth == 1 else f"{name}.weight_proj.{depth - 1}"
        affine(last, groups * entries, embed if depth == 1 else hidden)

    channels = 1
    convolutions = [(6, 10), (6, 3), (6, 3), (6, 2)]
    for index, (output, kernel) in enumerate(convolutions):
        affine(f"feature_extractor.conv_layers.{index}.0", output, channels, kernel, bias=o["conv_bias"])
        if o["extractor_mode"] == "layer_norm":
            affine(f"feature_extractor.conv_layers.{index}.2.1", output)
        elif index == 0:
            affine(f"feature_extractor.conv_layers.{index}.2", output)
        channels = output
    affine("layer_norm", channels)
    if channels != width and not o["quantize_input"]:
        affine("post_extract_proj", width, channels)
    depth, group = o["pos_conv_depth"], width // o["conv_pos_groups"]
    if depth == 1:
        shapes["encoder.pos_conv.0.bias"] = (width,)
        shapes["encoder.pos_conv.0.weight_g"] = (1, 1, o["conv_pos"])
        shapes["encoder.pos_conv.0.weight_v"] = (width, group, o["conv_pos"])
    else:
        for layer in range(depth):
            affine(f"encoder.pos_conv.{layer}.0", width, group, max(3, o["conv_pos"] // depth))
    affine("encoder.layer_norm", width)
    for layer in range(o["encoder_layers"]):
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            affine(f"encoder.layers.{layer}.self_attn.{projection}", width, width)
        affine(f"encoder.layers.{layer}.fc1", inner, width)
        affine(f"encoder.layers.{layer}.fc2", width, inner)
        affine(f"encoder.layers.{layer}.self_attn_layer_norm", width)
        affine(f"encoder.layers.{layer}.final_layer_norm", width)
    vq_dim = o["latent_dim"] or final
    if heads and o["quantize_targets"]:
        quantizer("quantizer", channels, vq_dim)
        affine("project_q", final, vq_dim)
    elif heads:
        affine("project_q", final, channels)
    if o["quantize_input"]:
        input_dim = final if o["same_quantizer"] else o["latent_dim"] or width
        if not o["same_quantizer"]:
            quantizer("input_quantizer", channels, input_dim)
        affine("project_inp", width, input_dim)
    if heads:
        affine("final_proj", final, width)
    if heads and o["target_glu"]:
        affine("target_glu.0", 2 * final, final)
    generator = torch.Generator().manual_seed(3)
    tensors = {f"{prefix}{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if heads and o["quantize_input"] and o["same_quantizer"]:
        tensors |= {f"input_{name}": value for name, value in tensors.items() if name.startswith("quantizer.")}
    return tensors


def checkpoint(
    model: dict[str, Any], tensors: dict[str, Tensor], task: dict[str, Any] | None = None, **further: Any
) -> dict[str, Any]:
    """The content of a file in the layout of nested dictionaries."""
    task = {"_name": "audio_pretraining", "normalize": False, "sample_rate": 16_000} | (task or {})
    cfg = {"_name": None, "model": model, "task": task, "criterion": None} | further.pop("cfg", {})
    return {"args": None, "cfg": cfg, "model": tensors, "optimizer_history": [{"num_updates": 40}], **further}


def save(path: Path, content: dict[str, Any], zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path
