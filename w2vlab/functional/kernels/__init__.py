"""Layers and functions with ordinary names that need less time or memory than PyTorch's.

Each one says which plain PyTorch it equals. Under `plain_kernels()` all of them compute by that plain PyTorch, which
export needs, and which is the reference of the tests. Parameters and their names are those of the PyTorch layers.

* `Conv1d`, `Linear`, `conv1d`: their input may be recomputed in the backward pass in place of being kept.
* `GELU`, `ReLU`, `GroupNorm`, `LayerNorm`, `WaveformConv1d`: their output may be recomputed; see `Recomputed`.
* `GroupedConv1d`, `grouped_conv1d`: wide convolutions as products of spectra.
* `add_residual`, `activate_in_place`, `WindowProducts`: for inference, without copies.
* `keep_copies`, `free_copies`, `weights_cast_once`: weights cast once an update under autocast.
* `Dropout`, `scaled_dot_product_attention`: on a CPU, fewer random bits, and no masks kept.
"""

from w2vlab.functional.kernels.attention import scaled_dot_product_attention
from w2vlab.functional.kernels.convolution import Conv1d, Linear, conv1d
from w2vlab.functional.kernels.dropout import Dropout
from w2vlab.functional.kernels.inference import (
    WindowProducts,
    activate_in_place,
    add_residual,
    computes_inference,
)
from w2vlab.functional.kernels.norms import GroupNorm, LayerNorm
from w2vlab.functional.kernels.plain import plain_kernels, set_plain_kernels, uses_plain_kernels
from w2vlab.functional.kernels.recompute import GELU, Frames, Recomputed, ReLU, as_tensor
from w2vlab.functional.kernels.spectra import GroupedConv1d, grouped_conv1d
from w2vlab.functional.kernels.waveform import WaveformConv1d
from w2vlab.functional.kernels.weights import free_copies, keep_copies, weights_cast_once

__all__ = [
    "GELU",
    "Conv1d",
    "Dropout",
    "Frames",
    "GroupNorm",
    "GroupedConv1d",
    "LayerNorm",
    "Linear",
    "ReLU",
    "Recomputed",
    "WaveformConv1d",
    "WindowProducts",
    "activate_in_place",
    "add_residual",
    "as_tensor",
    "computes_inference",
    "conv1d",
    "free_copies",
    "grouped_conv1d",
    "keep_copies",
    "plain_kernels",
    "scaled_dot_product_attention",
    "set_plain_kernels",
    "uses_plain_kernels",
    "weights_cast_once",
]
