"""The description of a configuration, computed or measured from its parts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jsonargparse import Namespace

from w2vlab.callbacks.diagnosis.gradient_matrix import GradientMatrix, gradient_matrix, trained_parts
from w2vlab.data import SpeechDataModule
from w2vlab.data.batches.micro_batches import micro_batches_of_each
from w2vlab.explain.batch_size.budget import Batches
from w2vlab.explain.cost import Cost, add_time, count_cost
from w2vlab.explain.flow import Flow, parts_of, trace_flow
from w2vlab.explain.run import MaskStatistics, Start, blind_loss, measure_masking, num_processes, scheduled_values
from w2vlab.modules.checkpoints.initial_weights import WarmStart
from w2vlab.modules.counting.without_values import without_files
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import SAMPLE_RATE, AudioBatch, RandomAddress, Seconds

_BATCH_SIZE = 2
_NOISE_SECONDS: Seconds = 1.0
"""Length of each utterance for the gradients; it does not affect which term trains which part."""


@dataclass
class Codes:
    """The codes of one frame, and their information.

    Attributes:
        num_codebooks: Codebooks G.
        codebook_size: Entries V of each.
        bits_per_frame: G log2 V, for uniformly used entries and independent codebooks.
        bits_per_second: `bits_per_frame` times the frame rate.
        max_perplexity: Maximum of the logged perplexity, which is summed over codebooks: G V.
        measurable_bits: Largest entropy of one frame's codes that can be estimated from the frames of one update:
            N frames have at most N different combinations, log2 N bits.
    """

    num_codebooks: int
    codebook_size: int
    bits_per_frame: float
    bits_per_second: float
    max_perplexity: int
    measurable_bits: float


@dataclass
class Update:
    """The size of an update.

    Attributes:
        processes: Devices times nodes.
        micro_batches: Micro-batches that each process accumulates.
        at_once: Most of them that are computed as one batch.
        nominal_seconds: Most audio of the update by `data.micro_batches`; `audio_seconds` if that is not set.
        utterances: Utterances of an update, all of the greatest length, over all processes and micro-batches; so are
            targets and predictions.
        audio_seconds: Most audio of an update, with the same number of micro-batches on each process.
        longest_seconds: Audio of an update of utterances of the greatest length.
        targets: Target frames, averaged over masks.
        predictions: Predictions, averaged over masks.
        updates: Updates of the run; None if `trainer.max_steps` does not limit them.
        audio_hours: Most audio of the run.
        may_end_before: Options that may end the run earlier, depending on corpus or machine: epochs, or time.
    """

    processes: int
    micro_batches: int
    at_once: int
    nominal_seconds: Seconds
    utterances: int
    audio_seconds: Seconds
    longest_seconds: Seconds
    targets: float
    predictions: float
    updates: int | None
    audio_hours: float | None
    may_end_before: dict[str, str]


@dataclass
class Explanation:
    """Everything that `w2vlab explain` prints.

    Attributes:
        model: Name of the model's class.
        classes: Name of the class of each part.
        flow: The parts in the order of their calls, with shapes.
        frames: Receptive field, stride and rates, with their units in the names.
        parameters: Trained parameters of each part.
        frozen: Parameters without a gradient of each part that has some, such as a teacher.
        num_parameters: All parameters of the model.
        num_frozen: The sum of `frozen`.
        gradients: Gradient of each term of the objective with respect to each part; None if it was not computed.
        codes: Information of the codes; None for continuous targets.
        masking: Statistics of the masks; None without masking.
        update: The size of an update.
        start: The losses before training.
        schedule_updates: The updates of `schedule`.
        schedule: Scheduled values by name, one for each of `schedule_updates`.
        cost: Operations, memory and time.
        warm_start: What was loaded from `model.init_from`; None if all weights are new.
    """

    model: str
    classes: dict[str, str]
    flow: Flow
    frames: dict[str, float]
    parameters: dict[str, int]
    frozen: dict[str, int]
    num_parameters: int
    num_frozen: int
    gradients: GradientMatrix | None
    codes: Codes | None
    masking: MaskStatistics | None
    update: Update
    start: Start
    schedule_updates: list[int]
    schedule: dict[str, list[float | None]]
    cost: Cost
    warm_start: WarmStart | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data that is valid JSON."""
        own = {"gradients": self.gradients, "warm_start": self.warm_start}
        return {**asdict(self), **{name: None if part is None else part.as_dict() for name, part in own.items()}}


def explain(
    model: PretrainingModule,
    data: SpeechDataModule,
    trainer: Namespace,
    gradients: bool = True,
    devices: int | None = None,
    speed: float | None = None,
) -> Explanation:
    """Describes a configuration.

    Args:
        model: The model; it cannot be used afterwards.
        data: The data module; only its options are used.
        trainer: The options of the trainer.
        gradients: Whether to compute which loss trains which part, which takes the time and memory of some training
            steps on a short batch.
        devices: Devices of the run; None for those of `trainer`.
        speed: Speed of each device, in seconds of audio per second; None if unknown.

    Returns:
        The explanation.

    Raises:
        ValueError: The longest utterances of the data are too short for the model, or options exclude each other.
    """
    data.require(model.min_samples)
    num_samples = round(data.max_seconds * SAMPLE_RATE)
    matrix, terms = _measure_step(model) if gradients else (None, None)
    blind = blind_loss(model)
    # Of the greatest length, in a micro-batch.
    utterances = Batches(data.batch_seconds, data.quadratic_seconds, 1).shape(data.max_seconds).utterances
    masking = measure_masking(model, utterances, model.encoder.num_frames(num_samples))
    updates = None if trainer.max_steps < 0 else trainer.max_steps
    schedule_updates = [0] if updates is None else sorted({0, updates // 2, updates})
    schedule = scheduled_values(model, schedule_updates)
    flow = trace_flow(model, _BATCH_SIZE, num_samples)  # last, because the model cannot be used afterwards
    processes = devices or num_processes(trainer)
    update = _update(flow, masking, data, trainer, updates, processes, utterances, model.copies(training=True))
    cost = count_cost(
        model,
        utterances,
        num_samples,
        update.processes * update.micro_batches,
        updates,
        half_precision=str(trainer.precision).startswith(("16", "bf16")),
        shards=update.processes if "ShardedStrategy" in str(trainer.strategy) else 1,
    )
    if speed is not None:
        add_time(cost, speed, None if updates is None else update.audio_seconds * updates, update.processes)
    frozen = _frozen(model)
    return Explanation(
        model=type(model).__name__,
        classes={name: type(child).__name__ for name, child in parts_of(model)},
        flow=flow,
        frames=_frames(model, data),
        parameters={part: sum(p.numel() for p in parameters) for part, parameters in trained_parts(model).items()},
        frozen=frozen,
        num_parameters=sum(p.numel() for p in model.parameters()),
        num_frozen=sum(frozen.values()),
        gradients=matrix,
        codes=_codes(model, update),
        masking=masking,
        update=update,
        start=Start.of(flow.num_candidates, blind, terms, model.loss.name if len(model.loss.terms) > 1 else ""),
        schedule_updates=schedule_updates,
        schedule=schedule,
        cost=cost,
        warm_start=model.warm_start,
    )


def _measure_step(model: PretrainingModule) -> tuple[GradientMatrix, dict[str, float | None]]:
    """Computes losses and gradients of the first training step, on noise."""
    num_samples = max(round(_NOISE_SECONDS * SAMPLE_RATE), model.min_samples)
    ids = tuple(f"utterance-{number}" for number in range(_BATCH_SIZE))
    generator = torch.Generator().manual_seed(model.seed)
    waveform = 0.1 * torch.randn(_BATCH_SIZE, num_samples, generator=generator)
    batch = AudioBatch(waveform=waveform, num_samples=(num_samples,) * _BATCH_SIZE, ids=ids)
    model.train()
    model.set_update(0)
    with without_files(model):
        output = model(batch, RandomAddress(seed=model.seed, update=0, ids=ids))
    terms = model.objective_terms(output)
    count = max(sum(output.prediction.num_predictions), 1)
    matrix = gradient_matrix(model, terms, count)
    values = {name: term.item() / count for name, term in terms.items()}
    return matrix, {name: value if math.isfinite(value) else None for name, value in values.items()}


def _frozen(model: PretrainingModule) -> dict[str, int]:
    found: dict[str, int] = {}
    for path, parameter in model.named_parameters():
        if not parameter.requires_grad:
            part = path.partition(".")[0]
            found[part] = found.get(part, 0) + parameter.numel()
    return found


def _frames(model: PretrainingModule, data: SpeechDataModule) -> dict[str, float]:
    receptive_field, stride = model.encoder.receptive_field, model.encoder.stride
    return {
        "receptive_field_samples": receptive_field,
        "receptive_field_ms": 1000 * receptive_field / SAMPLE_RATE,
        "stride_samples": stride,
        "stride_ms": 1000 * stride / SAMPLE_RATE,
        "frame_rate_hz": SAMPLE_RATE / stride,
        "longest_utterance_seconds": data.max_seconds,
        "shortest_utterance_seconds": max(data.min_seconds, model.min_samples / SAMPLE_RATE),
    }


def _update(
    flow: Flow,
    masking: MaskStatistics | None,
    data: SpeechDataModule,
    trainer: Namespace,
    updates: int | None,
    processes: int,
    utterances_of_each: int,
    masked_copies: int,
) -> Update:
    micro_batches = micro_batches_of_each(data.micro_batches, trainer.accumulate_grad_batches, processes)
    utterances = utterances_of_each * processes * micro_batches
    # Masks differ from batch to batch; without any, every batch of a shape has the same targets.
    targets = masked_copies * (flow.num_targets if masking is None else masking.predicted * flow.sizes["T"])
    seconds = data.batch_seconds * processes * micro_batches
    return Update(
        processes=processes,
        micro_batches=micro_batches,
        at_once=min(data.at_once, micro_batches),
        nominal_seconds=seconds if data.micro_batches is None else data.micro_batches * data.batch_seconds,
        utterances=utterances,
        audio_seconds=seconds,
        longest_seconds=utterances * data.max_seconds,
        targets=targets * utterances,
        predictions=targets * utterances * flow.predictions_per_target,
        updates=updates,
        audio_hours=None if updates is None else seconds * updates / 3600,
        may_end_before={
            f"trainer.{name}": str(value)
            for name in ("max_epochs", "max_time")
            if (value := getattr(trainer, name, None)) not in (None, -1)
        },
    )


def _codes(model: PretrainingModule, update: Update) -> Codes | None:
    spec = model.quantizer.spec
    if not spec.num_codebooks:
        return None
    bits = spec.num_codebooks * math.log2(spec.codebook_size)
    return Codes(
        num_codebooks=spec.num_codebooks,
        codebook_size=spec.codebook_size,
        bits_per_frame=bits,
        bits_per_second=bits * SAMPLE_RATE / model.encoder.stride,
        max_perplexity=spec.num_codebooks * spec.codebook_size,
        measurable_bits=min(bits, math.log2(max(update.targets, 1))),
    )
