"""Floating-point operations of a training step: counted, and as a function of the size of a micro-batch."""

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
"""Of the shortest utterance that is counted for the fit, unless the model needs more."""

_SIZES = ((8, 1), (8, 3), (8, 8), (16, 8))
"""What is counted for the fit: utterances, and how many times the shortest they are long.

Three lengths tell what is linear in them from what is quadratic; the last two, what grows with the batch squared. With
several utterances, the draws of their masks even out.
"""


@dataclass(frozen=True)
class StepFlops:
    """Floating-point operations of the forward and the backward pass of micro-batches, by their sizes.

    Attributes:
        coefficients: Operations for each of `size_terms`: outside of the layers that LayerDrop may leave out, and
            inside. Where it leaves out none, all count as inside.
    """

    coefficients: Vector

    def of(self, terms: Vector) -> float:
        """Returns the operations of a micro-batch with these `size_terms`, or of several with their sum."""
        return float(self.coefficients @ terms)


def size_terms(model: PretrainingModule, batch: AudioBatch) -> Vector:
    """Returns what the operations of a micro-batch are linear in: four terms, and the same times the layers' share.

    Padding is computed and so it counts: the terms are those of B utterances as long as the longest.

    Args:
        model: The model, at the update that the micro-batch is of.
        batch: The micro-batch.
    """
    terms = _terms(len(batch), model.encoder.num_frames(batch.waveform.shape[1]))
    dropped = [layer for stack in _stacks(model) if stack.training for layer in stack.dropped]
    share = 1 - sum(dropped) / len(dropped) if dropped else 1.0
    return np.concatenate([terms, share * terms])


def _terms(batch_size: int, num_frames: int) -> Vector:
    """A sum over frames, one over pairs of frames of an utterance (attention), and one over all pairs of the batch.

    The last is of losses that look for negatives in other utterances.
    """
    frames = batch_size * num_frames
    return np.array([batch_size, frames, frames * num_frames, frames * frames], dtype=np.float64)


def fit_flops(model: PretrainingModule) -> StepFlops:
    """Counts the operations of a few sizes, and from these those of every size.

    What depends on the draw of a mask is that of one draw.

    Args:
        model: The model; not fit for anything else afterwards, so give a `skeleton` of one that trains.

    Raises:
        Exception: One of `NOT_WITHOUT_VALUES`, if a part has to read a value.
    """
    model.train()
    shortest = max(_FRAMES, model.min_frames)
    sizes = [(batch_size, times * shortest) for batch_size, times in _SIZES]
    terms = np.stack([_terms(*size) for size in sizes])
    with torch.random.fork_rng(devices=[]):  # whatever a part draws, a run must not miss it
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
    """Is a GRU that does the products of all frames at once: frame by frame, the same number of them takes a minute."""
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
    """Counts forward and backward pass of a micro-batch, in matrix products and convolutions; product and sum are two.

    No layer is left out. What is computed again, as by activation checkpointing, is not counted again.

    Args:
        model: The model; parts may keep tensors without values, so it is not fit for anything else afterwards.
        batch_size: Utterances B.
        num_samples: Samples S of each.

    Raises:
        Exception: One of `NOT_WITHOUT_VALUES`, if a part has to read a value.
    """
    with all_layers(model, checkpointing=False):
        return _count(model, batch_size, num_samples)


def _count(model: PretrainingModule, batch_size: int, num_samples: int) -> int:
    with without_values(model) as state, Overridden({grouped_conv1d: _as_defined}):
        with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
            objective_without_values(model, state, batch_size, num_samples).backward()  # type: ignore[no-untyped-call]
        return int(counter.get_total_flops())


def _as_defined(inputs: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Computes `grouped_conv1d` as a convolution, so that the operations of its definition are counted."""
    return F.conv1d(inputs, weight, padding=padding, groups=inputs.shape[1] // weight.shape[1])


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return 2 * _attention(query, key, value)


def _convolution_backward(
    gradient: Any, value: Any, weight: Any, *options: Any, out_shape: Any = None, **__: Any
) -> int:
    """Counts each of the two gradients like the forward pass; PyTorch's formula forgets the groups of one of them."""
    transposed, output_mask = options[4], options[7]
    return int(sum(output_mask[:2])) * conv_flop_count(value, weight, gradient, transposed=transposed)


_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten.convolution_backward: _convolution_backward,
}
"""What PyTorch does not count, or counts otherwise than as twice the forward pass."""
