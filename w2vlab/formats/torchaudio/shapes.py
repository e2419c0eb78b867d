"""What the names and shapes of a state dictionary of torchaudio state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from w2vlab.formats.torchaudio.tables import (
    AUX,
    CONV_LAYERS,
    LAYERS,
    POSITION_WEIGHTS,
    POSITIONS,
    PROJECTION,
    PositionNames,
)
from w2vlab.utils.messages import one_line

_MAX_LAYERS = 10_000


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Sizes of a model.

    Attributes:
        conv_layers: Width and kernel of each convolution of the encoder.
        normalization: `first_group` or `layer`, as of `ConvFeatureEncoder`.
        bias: Whether these convolutions have a bias.
        model_dim: Width of the Transformer.
        num_layers: Transformer layers.
        feedforward_dim: Inner width of the feed-forward networks.
        position_kernel: Frames that the positional convolution sees.
        position_groups: Groups of the positional convolution.
        positions: Names of its tensors.
        num_labels: Rows of `aux`; 0 without it.
    """

    conv_layers: tuple[tuple[int, int], ...]
    normalization: str
    bias: bool
    model_dim: int
    num_layers: int
    feedforward_dim: int
    position_kernel: int
    position_groups: int
    positions: PositionNames
    num_labels: int


def read_shapes(tensors: Mapping[str, Tensor], source: Path) -> Shapes:
    """Reads the sizes of a model.

    Args:
        tensors: Its tensors by the names of `Wav2Vec2Model`.
        source: Path of the file, for errors.

    Raises:
        ValueError: A tensor is missing, is not of floating-point numbers, or has another number of dimensions.
    """
    for name in tensors:
        if not tensors[name].is_floating_point():
            raise ValueError(
                f"{source} must have weights of floating-point numbers, but {one_line(name, 100)} is of type "
                f"{tensors[name].dtype}."
            )
    num_convs = _count(tensors, f"{CONV_LAYERS}.{{}}.conv.weight")
    convs = [_shape(tensors, f"{CONV_LAYERS}.{index}.conv.weight", 3, source) for index in range(num_convs)]
    positions: PositionNames = "parametrizations"
    for positions in POSITION_WEIGHTS:
        if POSITION_WEIGHTS[positions][-1] in tensors:
            break
    kernel = _shape(tensors, POSITION_WEIGHTS[positions][-1], 3, source)
    feedforward_dim, _ = _shape(tensors, f"{LAYERS}.0.feed_forward.intermediate_dense.weight", 2, source)
    model_dim, _ = _shape(tensors, f"{PROJECTION}.weight", 2, source)
    if not 0 < kernel[1] <= model_dim or model_dim % kernel[1]:
        raise ValueError(
            f"{POSITIONS} of {source} must have groups of equal width, but {model_dim} channels have filters of "
            f"{kernel[1]}."
        )
    return Shapes(
        conv_layers=tuple((width, size) for width, _, size in convs),
        normalization="layer" if f"{CONV_LAYERS}.{num_convs - 1}.layer_norm.weight" in tensors else "first_group",
        bias=f"{CONV_LAYERS}.0.conv.bias" in tensors,
        model_dim=model_dim,
        num_layers=_count(tensors, f"{LAYERS}.{{}}.attention.k_proj.weight"),
        feedforward_dim=feedforward_dim,
        position_kernel=kernel[2],
        position_groups=model_dim // kernel[1],
        positions=positions,
        num_labels=_shape(tensors, AUX[0], 2, source)[0] if AUX[0] in tensors else 0,
    )


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return next(index for index in range(_MAX_LAYERS) if pattern.format(index) not in tensors)


def _shape(tensors: Mapping[str, Tensor], name: str, dimensions: int, source: Path) -> tuple[int, ...]:
    """Returns the shape of a tensor.

    Raises:
        ValueError: It is missing, empty, or has another number of dimensions.
    """
    if name not in tensors:
        raise ValueError(f"{source} must have the tensors of a Wav2Vec2Model, but {name} is missing.")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(
            f"{name} of {source} must have {dimensions} dimensions, none of them empty, but its shape is {list(shape)}."
        )
    return shape
