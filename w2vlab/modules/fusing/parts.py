"""What depends on a micro-batch, computed for each of several that went through the model as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from w2vlab.batch import rows_of
from w2vlab.functional.lengths import make_padding_mask
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import Penalty, PredictionLoss, UpdatePenalty
from w2vlab.types import AllFrames, LossInputs, LossOutput, MicroBatch, PretrainOutput, QuantizerOutput

Parts = Sequence[MicroBatch] | None
"""The micro-batches of a batch; None if it is one."""


def rows_of_several(parts: Parts) -> list[slice]:
    """Returns the rows of each micro-batch; none unless there are several."""
    return [] if parts is None or len(parts) < 2 else rows_of(part.size for part in parts)


def loss_of(loss: PredictionLoss, inputs: LossInputs, parts: Parts) -> LossOutput:
    """Computes a loss: at once, or for each micro-batch if utterances depend on each other within it.

    Args:
        loss: The loss.
        inputs: Of all micro-batches.
        parts: The micro-batches.
    """
    rows = [] if loss.utterances_are_independent else rows_of_several(parts)
    if not rows:
        output: LossOutput = loss(inputs)
        return output
    outputs: list[LossOutput] = [loss(_inputs_at(inputs, some)) for some in rows]
    shares = {
        name: (
            torch.stack([output.shares[name][0] for output in outputs]).sum(),
            sum(output.shares[name][1] for output in outputs),
        )
        for name in outputs[0].shares
    }
    return LossOutput(
        total=torch.stack([output.total for output in outputs]).sum(),
        num_predictions=tuple(number for output in outputs for number in output.num_predictions),
        num_correct=torch.stack([output.num_correct for output in outputs]).sum(),
        num_candidates=outputs[0].num_candidates,
        shares=shares,
        terms={name: torch.stack([output.terms[name] for output in outputs]).sum() for name in outputs[0].terms},
    )


def penalty_of(penalty: Penalty, output: PretrainOutput, parts: Parts, counts: Tensor) -> Tensor:
    """Returns a penalty weighted by the predictions that it is a mean over, `()`: a sum like that of the loss.

    Args:
        penalty: The penalty.
        output: Of all micro-batches.
        parts: The micro-batches.
        counts: Predictions of each utterance, shape `(B,)`.
    """
    # That of a whole update is a function of all utterances, if no other micro-batches belong to the update.
    at_once = penalty.whole_update if isinstance(penalty, UpdatePenalty) else penalty.utterances_are_independent
    rows = [] if at_once else rows_of_several(parts)
    values = [_weighted(penalty, output_at(output, some), counts[some]) for some in rows]
    return torch.stack(values).sum() if values else _weighted(penalty, output, counts)


def _weighted(penalty: Penalty, output: PretrainOutput, counts: Tensor) -> Tensor:
    value = at_least_float32(penalty(output))  # () or (B,)
    return (value * counts.to(value.dtype)).sum() * penalty.weight


def _inputs_at(inputs: LossInputs, rows: slice) -> LossInputs:
    """Returns the inputs of a loss that a micro-batch has apart."""
    num_targets = inputs.num_targets[rows]
    frames = None if inputs.all_frames is None else _all_frames_at(inputs.all_frames, rows, max(num_targets))
    return replace(
        inputs,
        context=inputs.context[rows, : max(num_targets)],
        targets=_quantized_at(inputs.targets, rows, max(num_targets)),
        num_targets=num_targets,
        address=replace(inputs.address, ids=inputs.address.ids[rows]),
        all_frames=frames,
        layers={number: layer[rows, : max(num_targets)] for number, layer in inputs.layers.items()},
        drawn={
            key: tuple(tensor[rows, : max(num_targets)] for tensor in tensors) for key, tensors in inputs.drawn.items()
        },
    )


def _all_frames_at(frames: AllFrames, rows: slice, size: int) -> AllFrames:
    num_frames = frames.num_frames[rows]
    return AllFrames(
        targets=_quantized_at(frames.targets, rows, max(num_frames)),
        num_frames=num_frames,
        positions=frames.positions[rows, :size],
        context=None if frames.context is None else frames.context[rows, : max(num_frames)],
        layers={number: layer[rows, : max(num_frames)] for number, layer in frames.layers.items()},
    )


def _quantized_at(output: QuantizerOutput, rows: slice, size: int) -> QuantizerOutput:
    return QuantizerOutput(
        quantized=output.quantized[rows, :size],
        codes=output.codes[rows, :size],
        probabilities=None if output.probabilities is None else output.probabilities[rows, :size],
        losses={name: loss[rows, :size] for name, loss in output.losses.items()},
    )


def output_at(output: PretrainOutput, rows: slice) -> PretrainOutput:
    """Returns what the forward pass of a micro-batch returns, but not its prediction: only the number of predictions.

    Args:
        output: Of all micro-batches.
        rows: The utterances of the micro-batch.
    """
    num_frames = output.num_frames[rows]
    mask, size = output.mask, max(num_frames)
    num_targets = num_frames if mask is None else mask.num_targets[rows]
    if mask is not None:
        mask = replace(
            mask,
            frames=mask.frames[rows, :size],
            targets=mask.targets[rows, : max(num_targets)],
            num_targets=num_targets,
            channels=None if mask.channels is None else mask.channels[rows],
        )
    return PretrainOutput(
        features=output.features[rows, :size],
        num_frames=num_frames,
        context=output.context[rows, :size],
        targets=_quantized_at(output.targets, rows, max(num_targets)),
        target_padding_mask=make_padding_mask(num_targets, max(num_targets), output.context.device),
        prediction=LossOutput(
            total=torch.full_like(output.prediction.total, torch.nan),
            num_predictions=output.prediction.num_predictions[rows],
            num_correct=torch.zeros_like(output.prediction.num_correct),
            num_candidates=output.prediction.num_candidates,
        ),
        mask=mask,
        inputs=None if output.inputs is None else _quantized_at(output.inputs, rows, size),
    )
