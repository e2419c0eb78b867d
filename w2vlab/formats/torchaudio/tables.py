"""Our names of tensors beside those of torchaudio's `Wav2Vec2Model`, and its arguments beside our options."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from torch import Tensor

from w2vlab.formats.names import Entry
from w2vlab.formats.published import HEAD

PositionNames = Literal["parametrizations", "weight_g", "weight"]
"""Names of the positional convolution: of torchaudio 2, of older files, and of a file without weight normalization."""

CONV_LAYERS = "feature_extractor.conv_layers"
POSITIONS = "encoder.transformer.pos_conv_embed.conv"
LAYERS = "encoder.transformer.layers"
PROJECTION = "encoder.feature_projection.projection"
AUX = ("aux.weight", "aux.bias")

POSITION_WEIGHTS: dict[PositionNames, tuple[str, ...]] = {
    "parametrizations": (
        f"{POSITIONS}.parametrizations.weight.original0",
        f"{POSITIONS}.parametrizations.weight.original1",
    ),
    "weight_g": (f"{POSITIONS}.weight_g", f"{POSITIONS}.weight_v"),
    "weight": (f"{POSITIONS}.weight",),
}

DROPOUTS = {
    "encoder_projection_dropout": "input_dropout",
    "encoder_attention_dropout": "attention_dropout",
    "encoder_ff_interm_dropout": "activation_dropout",
    "encoder_dropout": "dropout",
    "encoder_layer_drop": "layer_drop",
}
"""Our option of the context network for each argument of `wav2vec2_model` that weights do not depend on."""

NORMALIZATIONS = {"group_norm": "first_group", "layer_norm": "layer"}
"""Our option `normalization` for each `extractor_mode`."""


def entries(num_convs: int, bias: bool, layer_norm: bool, num_layers: int, positions: PositionNames) -> list[Entry]:
    """Returns the table of a model with an input projection.

    Args:
        num_convs: Convolutions of the encoder.
        bias: Whether these have a bias.
        layer_norm: Whether each is normalized, or the first one alone.
        num_layers: Transformer layers.
        positions: Names of the positional convolution.
    """
    table: list[Entry] = []
    for index in range(num_convs):
        ours, theirs = f"encoder.blocks.{index}", f"{CONV_LAYERS}.{index}"
        table += [Entry(ours=f"{ours}.conv.{kind}", theirs=(f"{theirs}.conv.{kind}",)) for kind in _kinds(bias)]
        if layer_norm or index == 0:
            table += _pair(f"{ours}.norm", f"{theirs}.layer_norm")
    table += _pair("norm", "encoder.feature_projection.layer_norm")
    table += _pair("context.input_projection", PROJECTION)
    table += _position_entries(positions)
    table += _pair("context.norm", "encoder.transformer.layer_norm")
    for index in range(num_layers):
        table += _layer_entries(f"context.layers.{index}", f"{LAYERS}.{index}")
    return [
        *table,
        *(Entry(ours=ours, theirs=(theirs,), optional=True) for ours, theirs in zip(HEAD, AUX, strict=True)),
    ]


def _kinds(bias: bool) -> tuple[str, ...]:
    return ("weight", "bias") if bias else ("weight",)


def _pair(ours: str, theirs: str) -> Iterator[Entry]:
    return (Entry(ours=f"{ours}.{kind}", theirs=(f"{theirs}.{kind}",)) for kind in _kinds(bias=True))


def _layer_entries(ours: str, theirs: str) -> Iterator[Entry]:
    for kind in ("weight", "bias"):
        parts = tuple(f"{theirs}.attention.{part}_proj.{kind}" for part in "qkv")
        yield Entry(ours=f"{ours}.attention.qkv.{kind}", theirs=parts)
    yield from _pair(f"{ours}.attention.output", f"{theirs}.attention.out_proj")
    yield from _pair(f"{ours}.attention_norm", f"{theirs}.layer_norm")
    yield from _pair(f"{ours}.feedforward.0", f"{theirs}.feed_forward.intermediate_dense")
    yield from _pair(f"{ours}.feedforward.3", f"{theirs}.feed_forward.output_dense")
    yield from _pair(f"{ours}.feedforward_norm", f"{theirs}.final_layer_norm")


def _position_entries(names: PositionNames) -> Iterator[Entry]:
    ours = "context.positions.conv"
    yield Entry(ours=f"{ours}.bias", theirs=(f"{POSITIONS}.bias",))
    theirs = POSITION_WEIGHTS[names]
    if names == "weight":  # weight normalization of a weight is the weight itself, with its own norms
        yield Entry(ours=f"{ours}.parametrizations.weight.original0", theirs=theirs, to_ours=_norms)
        yield Entry(ours=f"{ours}.parametrizations.weight.original1", theirs=theirs)
        return
    for index, name in enumerate(theirs):
        yield Entry(ours=f"{ours}.parametrizations.weight.original{index}", theirs=(name,))


_norms = partial(Tensor.norm, dim=(0, 1), keepdim=True)
"""The norm of each tap of a kernel `(D, D / groups, kernel)`: `(1, 1, kernel)`."""
