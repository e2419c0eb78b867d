"""Properties of a run that follow from its options: processes, masks, schedules and the uninformed loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jsonargparse import Namespace
from torch.func import functional_call
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from w2vlab.functional.lengths import gather_frames
from w2vlab.interfaces import Masking, StepDependent
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.optim import UpdateSchedule
from w2vlab.types import AllFrames, LossInputs, LossOutput, QuantizerOutput, RandomAddress

_MIN_DRAWS, _MIN_UTTERANCES = 20, 500


@dataclass
class MaskStatistics:
    """Statistics of a masking strategy over many batches.

    Attributes:
        num_draws: Number of batches.
        num_utterances: Utterances of each batch.
        num_frames: Frames of each utterance.
        hidden: Fraction of masked frames.
        hidden_deviation: Standard deviation of `hidden` between batches.
        predicted: Fraction of target frames.
        hidden_channels: Fraction of channels that are set to zero.
    """

    num_draws: int
    num_utterances: int
    num_frames: int
    hidden: float
    hidden_deviation: float
    predicted: float
    hidden_channels: float


@dataclass
class Start:
    """The losses before training.

    Of several losses, candidates, chance and uninformed loss are those of the first, without its weight.

    Attributes:
        num_candidates: Candidates 1 + K of a prediction; 0 if the loss does not choose among candidates (regression).
        chance: Accuracy of guessing; None without candidates, and so are `nats` and `bits`.
        nats: ln(1 + K), the loss of a softmax over candidates with equal scores.
        bits: `nats` in bits.
        blind: The loss in nats with all weights of the loss module at zero; None if it has no weights or no candidates.
        loss: The name of the first of several losses; empty for a single one.
        terms: Weighted terms of the objective for the initial weights on noise, in nats per prediction, or in the unit
            of the loss without candidates; None if they were not computed, and for a term that is not finite.
    """

    num_candidates: int
    chance: float | None
    nats: float | None
    bits: float | None
    blind: float | None
    terms: dict[str, float | None] | None
    loss: str = ""

    @classmethod
    def of(
        cls, num_candidates: int, blind: float | None, terms: dict[str, float | None] | None, loss: str = ""
    ) -> Start:
        """Returns the start of a loss with `num_candidates` candidates."""
        if num_candidates == 0:
            return cls(0, None, None, None, blind, terms, loss)
        nats = math.log(num_candidates)
        return cls(num_candidates, 1 / num_candidates, nats, nats / math.log(2), blind, terms, loss)


def measure_masking(model: PretrainingModule, num_utterances: int, num_frames: int) -> MaskStatistics | None:
    """Measures the masks of many batches.

    Args:
        model: The model.
        num_utterances: Utterances of a batch.
        num_frames: Frames of each utterance.

    Returns:
        The statistics; None for a model without masking.
    """
    masking = next((child for child in model.children() if isinstance(child, Masking)), None)
    if masking is None:
        return None
    num_draws = max(_MIN_DRAWS, math.ceil(_MIN_UTTERANCES / num_utterances))
    ids = tuple(f"utterance-{number}" for number in range(num_utterances))
    hidden, predicted, channels = [], [], []
    for update in range(num_draws):
        generators = RandomAddress(seed=model.seed, update=update, ids=ids).generators("mask")
        mask = masking((num_frames,) * num_utterances, generators, model.context.model_dim)
        hidden.append(mask.frames.double().mean())
        predicted.append(sum(mask.num_targets) / (num_utterances * num_frames))
        channels.append(0.0 if mask.channels is None else mask.channels.double().mean().item())
    shares = torch.stack(hidden)
    return MaskStatistics(
        num_draws=num_draws,
        num_utterances=num_utterances,
        num_frames=num_frames,
        hidden=shares.mean().item(),
        hidden_deviation=shares.std().item(),
        predicted=sum(predicted) / num_draws,
        hidden_channels=sum(channels) / num_draws,
    )


def blind_loss(model: PretrainingModule) -> float | None:
    """Measures the loss of an uninformed prediction, in nats: with all weights of the loss at zero.

    The targets are random and all different, because negatives equal to the true target would be excluded.

    Returns:
        The mean over predictions; None if the loss has no weights, or no candidates: the error of a regression depends
        on the variance of its targets, which is not known before. Of several losses, that of the first, unless its
        weight is 0.
    """
    loss, spec = model.loss, model.quantizer.spec
    if not any(True for _ in loss.parameters()):
        return None
    generator = torch.Generator().manual_seed(model.seed)
    num_frames = loss.min_frames(model.first_ahead) + 100
    context = torch.randn(2, num_frames, model.context.output_dim, generator=generator)
    vectors = torch.randn(2, num_frames, spec.dim, generator=generator)
    codes = torch.randint(max(spec.codebook_size, 1), (2, num_frames, spec.num_codebooks), generator=generator)
    targets = QuantizerOutput(quantized=vectors, codes=codes)
    lengths: tuple[int, ...] = (num_frames, num_frames)
    address = RandomAddress(seed=model.seed, update=0, ids=("first", "second"))
    positions, num_targets = torch.arange(num_frames).expand(2, -1), lengths
    samples = model.encoder.receptive_field + (num_frames - 1) * model.encoder.stride
    mask = model.draw_mask((samples, samples), address) if loss.predicts_every_frame else None
    if mask is not None:  # the loss weights frames by whether they are masked
        num_targets, positions = mask.num_targets, mask.targets
    layers = dict.fromkeys(loss.context_layers, context)
    all_frames = None
    if loss.uses_every_frame:
        all_frames = AllFrames(targets=targets, num_frames=lengths, positions=positions, context=context, layers=layers)
    lookup = model.quantizer.lookup if spec.num_codebooks else None
    inputs = LossInputs(
        context=gather_frames(context, positions),
        targets=targets.at(positions),
        num_targets=num_targets,
        address=address,
        first_ahead=model.first_ahead,
        lookup=lookup,
        all_frames=all_frames,
        layers={number: gather_frames(layer, positions) for number, layer in layers.items()},
    )
    with torch.no_grad():
        zeros = {name: torch.zeros_like(parameter) for name, parameter in loss.named_parameters()}
        output: LossOutput = functional_call(loss, zeros, (inputs,))
    if not output.num_candidates or not loss.first_weight:
        return None
    total = output.terms[loss.name] / loss.first_weight if len(loss.terms) > 1 else output.total
    return total.item() / sum(output.num_predictions)


def scheduled_values(model: PretrainingModule, updates: Sequence[int]) -> dict[str, list[float | None]]:
    """Computes all scheduled values, by their names in the logs, after each of `updates`.

    Args:
        model: The model.
        updates: Numbers of completed updates, ascending.

    Returns:
        One value for each of `updates`; None if it depends on the results of the run.
    """
    values: dict[str, list[float | None]] = {"learning_rate": _learning_rates(model, updates)}
    for module in model.modules():
        if isinstance(module, StepDependent):
            after = [module.scheduled_values(update) for update in updates]
            values |= {name: [state[name] for state in after] for name in after[0]}
    return values


def _learning_rates(model: PretrainingModule, updates: Sequence[int]) -> list[float | None]:
    configured = cast(dict[str, Any], model.configure_optimizers())
    optimizer: Optimizer = configured["optimizer"]
    scheduler = configured["lr_scheduler"]["scheduler"]
    if isinstance(scheduler, ReduceLROnPlateau):
        return [None if update else _rate(optimizer) for update in updates]
    if isinstance(scheduler, UpdateSchedule):
        return [float(scheduler.base_lrs[0]) * scheduler.factor(update) for update in updates]
    return _stepped(scheduler, optimizer, updates)


def _stepped(scheduler: LRScheduler, optimizer: Optimizer, updates: Sequence[int]) -> list[float | None]:
    """Steps a schedule of PyTorch through all updates, because it can only compute its next value."""
    rates: list[float | None] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that the optimizer was not stepped
        done = 0
        for update in updates:
            for _ in range(update - done):
                scheduler.step()
            done = update
            rates.append(_rate(optimizer))
    return rates


def _rate(optimizer: Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def num_processes(trainer: Namespace) -> int:
    """Returns the number of processes of a trainer; `auto` uses the devices of this machine.

    Args:
        trainer: Options of the trainer: `devices`, `accelerator` and `num_nodes`.
    """
    devices: Any = trainer.devices
    if isinstance(devices, str) and "," in devices:
        devices = [index for index in devices.split(",") if index.strip()]
    elif isinstance(devices, str) and devices != "auto":
        devices = int(devices)
    if devices in ("auto", -1):
        on_gpu = trainer.accelerator in ("auto", "gpu", "cuda")
        count = max(torch.cuda.device_count(), 1) if on_gpu else 1
    else:
        count = len(devices) if isinstance(devices, Sequence) else int(devices)
    return count * int(trainer.num_nodes)
