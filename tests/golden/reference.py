"""Reads the reference tensors and lays fairseq's parameter names over ours.

The files were computed with fairseq (commit 3d262bb2, float32, CPU) on random inputs at toy widths.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "fairseq"
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


class Reference:
    """One file: its tensors by fairseq's name and its configuration."""

    def __init__(self, name: str) -> None:
        with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.config = {key: json.loads(value) for key, value in file.metadata().items()}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def conv_layers(self, key: str = "conv_feature_layers") -> list[tuple[int, ...]]:
        """The layers, written by fairseq as a sum of lists, such as `[(8,10,5)] + [(8,3,2)] * 4`."""
        tree = ast.parse(self.config[key], mode="eval")
        return [tuple(layer) for layer in _layers(tree.body)]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """All tensors below `prefix`, without it."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def _layers(node: ast.AST) -> list:
    if isinstance(node, ast.BinOp):
        left, right = _layers(node.left), node.right
        return left + _layers(right) if isinstance(node.op, ast.Add) else left * ast.literal_eval(right)
    return ast.literal_eval(node)


RENAMED = [
    # encoder
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"encoder.blocks.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.1\.", r"encoder.blocks.\1.norm."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.", r"encoder.blocks.\1.norm."),
    # wav2vec's aggregator and predictor
    (r"^feature_aggregator\.conv_layers\.(\d+)\.1\.", r"context.blocks.\1.conv."),
    (r"^feature_aggregator\.conv_layers\.(\d+)\.3\.", r"context.blocks.\1.norm."),
    (r"^wav2vec_predictions\.project_to_steps\.", r"loss.step_projection."),
    # quantizers
    (r"^(?:vector_)?quantizer\.(vars|embedding)$", r"quantizer.entries"),
    (r"^(?:vector_)?quantizer\.weight_proj\.0\.0\.", r"quantizer.scores.0."),
    (r"^(?:vector_)?quantizer\.weight_proj\.1\.", r"quantizer.scores.2."),
    (r"^(?:vector_)?quantizer\.weight_proj\.", r"quantizer.scores.0."),
    (r"^vector_quantizer\.projection\.0\.", r"quantizer.projection."),
    (r"^vector_quantizer\.projection\.1\.", r"quantizer.norm."),
    # wav2vec 2.0
    (r"^layer_norm\.", r"norm."),
    (r"^post_extract_proj\.", r"context.input_projection."),
    (r"^mask_emb$", r"mask_embedding"),
    (r"^encoder\.pos_conv\.0\.bias", r"context.positions.conv.bias"),
    (r"^encoder\.pos_conv\.0\.weight_g", r"context.positions.conv.parametrizations.weight.original0"),
    (r"^encoder\.pos_conv\.0\.weight_v", r"context.positions.conv.parametrizations.weight.original1"),
    (r"^encoder\.layer_norm\.", r"context.norm."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"context.layers.\1.attention.output."),
    (r"^encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"context.layers.\1.attention_norm."),
    (r"^encoder\.layers\.(\d+)\.fc1\.", r"context.layers.\1.feedforward.0."),
    (r"^encoder\.layers\.(\d+)\.fc2\.", r"context.layers.\1.feedforward.3."),
    (r"^encoder\.layers\.(\d+)\.final_layer_norm\.", r"context.layers.\1.feedforward_norm."),
    (r"^final_proj\.", r"loss.context_projection."),
    (r"^project_q\.", r"loss.target_projection."),
]


def to_ours(tensors: dict[str, Tensor], num_codebooks: int) -> dict[str, Tensor]:
    """Renames fairseq's parameters (or their gradients) and brings them to our shapes."""
    ours = {}
    for name, tensor in tensors.items():
        if match := re.match(r"^encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)$", name):
            parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            ours[f"context.layers.{match[1]}.attention.qkv.{match[2]}"] = torch.cat(parts)
            continue
        if re.match(r"^encoder\.layers\.\d+\.self_attn\.[kv]_proj\.", name):
            continue
        renamed = next((re.sub(p, r, name) for p, r in RENAMED if re.match(p, name)), name)
        if name.endswith("vars"):  # (1, G * V, d), or (1, V, d) shared
            width = tensor.shape[-1]
            shared = tensors_shared(tensors, name, num_codebooks)
            tensor = tensor.view(1 if shared else num_codebooks, -1, width)
        if name.endswith("embedding"):  # (V, G or 1, d)
            tensor = tensor.transpose(0, 1)
        ours[renamed] = tensor
    return ours


def tensors_shared(tensors: dict[str, Tensor], name: str, num_codebooks: int) -> bool:
    """Tells whether all groups read one codebook: then there are fewer entries than scores."""
    prefix = name.removesuffix("vars")
    last = next(k for k in (f"{prefix}weight_proj.1.bias", f"{prefix}weight_proj.bias") if k in tensors)
    return tensors[name].shape[1] != tensors[last].shape[0]


def load(module: nn.Module, tensors: dict[str, Tensor], num_codebooks: int = 2) -> None:
    """Copies fairseq's parameters into `module`; every one of both sides must be used."""
    module.load_state_dict(to_ours(tensors, num_codebooks))


def assert_gradients(module: nn.Module, expected: dict[str, Tensor], num_codebooks: int = 2) -> None:
    """Compares the gradient of every parameter; one that fairseq has none of must be absent or zero here."""
    expected = to_ours(expected, num_codebooks)
    for name, parameter in module.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        reference = expected.pop(name, None)
        reference = torch.zeros_like(parameter) if reference is None else reference
        # A small element is a sum of large ones that cancel: its rounding, another on every processor, is theirs.
        tolerance = TOLERANCE | {"atol": max(TOLERANCE["atol"], TOLERANCE["rtol"] * reference.abs().max().item())}
        torch.testing.assert_close(gradient, reference, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
    assert not expected, f"gradients of unknown parameters: {sorted(expected)}"
