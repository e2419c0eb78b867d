"""Counts the floating-point operations of a training step, and fits them as a function of the micro-batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_flop_count

from w2vlab.contexts.layer_drop import LayerDropStack
from w2vlab.functional.kernels import grouped_conv1d
from w2vlab.modules.counting.without_values import Overridden, all_layers, objective_without_values, without_values
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import AudioBatch

Vector = npt.NDArray[np.float64]

_FRAMES = 64
"""Frames of the shortest utterance of the fit, unless the model needs more."""

_SIZES = ((8, 1), (8, 3), (8, 8), (16, 8))
"""Micro-batches of the fit: number of utterances, and their length in multiples of the shortest.

Three lengths separate the linear from the quadratic term; the last two sizes separate the term that is quadratic in the
batch. With several utterances, the differences of random masks average out.
"""


@dataclass(frozen=True)
class StepFlops:
    """Floating-point operations of the forward and the backward pass of micro-batches, by their sizes.

    Attributes:
        coefficients: Operations for each of `size_terms`: outside of the layers that LayerDrop may skip, and inside.
            Without LayerDrop, all operations count as inside.
    """

    coefficients: Vector

    def of(self, terms: Vector) -> float:
        """Returns the operations of a micro-batch with these `size_terms`, or of several with their sum."""
        return float(self.coefficients @ terms)


def size_terms(model: PretrainingModule, batch: AudioBatch) -> Vector:
    """Returns the regressors of the operations of a micro-batch: four terms, and the same times the share of layers.

    Padding is computed, so it is counted: the terms are those of B utterances of the greatest length.

    Args:
        model: The model, in its state at the update of the micro-batch.
        batch: The micro-batch.

    Returns:
        The regressors, shape `(8,)`.
    """
    terms = _terms(len(batch), model.encoder.num_frames(batch.waveform.shape[1]))
    dropped = [layer for stack in _stacks(model) if stack.training for layer in stack.dropped]
    share = 1 - sum(dropped) / len(dropped) if dropped else 1.0
    return np.concatenate([terms, share * terms])


def _terms(batch_size: int, num_frames: int) -> Vector:
    """Returns B, the number of frames, of pairs of frames within utterances (attention) and of pairs in the batch.

    The last term is for losses that sample negatives from other utterances. What is computed once for all utterances,
    such as the projected distances of `RelativePositions`, has no term: a fit has the share that it has with 8 of them.
    """
    frames = batch_size * num_frames
    return np.array([batch_size, frames, frames * num_frames, frames * frames], dtype=np.float64)


def fit_flops(model: PretrainingModule) -> StepFlops:
    """Counts the operations of some micro-batches, and fits those of any size.

    Operations that depend on masks are those of one random mask.

    Args:
        model: The model; it cannot be used afterwards, so pass a `skeleton` of a model that is training.

    Returns:
        The operations as a function of the size.

    Raises:
        Exception: One of `NOT_WITHOUT_VALUES`, if a part has to read the value of a tensor.
    """
    model.train()
    shortest = max(_FRAMES, model.min_frames)
    sizes = [(batch_size, times * shortest) for batch_size, times in _SIZES]
    terms = np.stack([_terms(*size) for size in sizes])
    with torch.random.fork_rng(devices=[]):  # random draws of parts must not change those of the run
        whole = np.linalg.solve(terms, [_count_frames(model, *size, dropped=False) for size in sizes])
        outside = np.zeros_like(whole)
        if any(stack.layer_drop for stack in _stacks(model)):
            outside = np.linalg.solve(terms, [_count_frames(model, *size, dropped=True) for size in sizes])
    return StepFlops(np.concatenate([outside, whole - outside]))


def _stacks(model: PretrainingModule) -> list[LayerDropStack]:
    return [module for module in model.modules() if isinstance(module, LayerDropStack)]


def _count_frames(model: PretrainingModule, batch_size: int, num_frames: int, dropped: bool) -> int:
    num_samples = model.encoder.receptive_field + (num_frames - 1) * model.encoder.stride
    with all_layers(model, checkpointing=False, dropped=dropped), Overridden({torch.gru: _recurrence_at_once}):
        return _count(model, batch_size, num_samples)


def _recurrence_at_once(*args: Any) -> tuple[Tensor, Tensor]:
    """Replaces a GRU by the matrix products of all frames at once; one by one, the same count takes a minute."""
    if not isinstance(args[2], list):
        return torch.gru(*args)
    frames, state, weights, has_biases, num_layers, _, _, bidirectional, _ = args
    of_each = 4 if has_biases else 2
    for layer in range(num_layers):
        outputs = []
        for direction in range(1 + bidirectional):
            from_input, from_state = weights[of_each * (layer * (1 + bidirectional) + direction) :][:2]  # (3 D, …)
            outputs.append(F.linear(F.linear(frames, from_input)[..., : state.shape[-1]], from_state))
        frames = torch.cat([output[..., : state.shape[-1]] for output in outputs], dim=-1)
    return frames, state


def count_flops(model: PretrainingModule, batch_size: int, num_samples: int) -> int:
    """Counts the operations of matrix products and convolutions in the forward and backward pass of a micro-batch.

    A multiply-add counts as two. No layer is dropped. Recomputation, such as that of activation checkpointing, is not
    counted.

    Args:
        model: The model; it cannot be used afterwards, because parts may keep tensors without values.
        batch_size: Utterances B.
        num_samples: Samples S of each.

    Raises:
        Exception: One of `NOT_WITHOUT_VALUES`, if a part has to read the value of a tensor.
    """
    with all_layers(model, checkpointing=False):
        return _count(model, batch_size, num_samples)


def _count(model: PretrainingModule, batch_size: int, num_samples: int) -> int:
    with without_values(model) as state, Overridden({grouped_conv1d: _as_defined}):
        with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
            objective_without_values(model, state, batch_size, num_samples).backward()  # type: ignore[no-untyped-call]
        return int(counter.get_total_flops())


def _as_defined(inputs: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Computes `grouped_conv1d` as a plain convolution, whose operations are counted."""
    return F.conv1d(inputs, weight, padding=padding, groups=inputs.shape[1] // weight.shape[1])


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return 2 * _attention(query, key, value)


def _convolution_backward(
    gradient: Any, value: Any, weight: Any, *options: Any, out_shape: Any = None, **__: Any
) -> int:
    """Counts each of the two gradients like the forward pass; PyTorch's formula ignores the groups for one of them."""
    transposed, output_mask = options[4], options[7]
    return int(sum(output_mask[:2])) * conv_flop_count(value, weight, gradient, transposed=transposed)


_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten.convolution_backward: _convolution_backward,
}
"""Formulas for operations that PyTorch does not count, or whose backward pass is not twice its forward pass."""
