"""Traces the input and output shapes of the parts of a model, without computation."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from w2vlab.interfaces import (
    ContextNetwork,
    FeatureEncoder,
    Masking,
    PredictionLoss,
    Quantizer,
    Teacher,
    UtteranceEncoder,
    UtteranceTargets,
)
from w2vlab.modules.counting.without_values import NOT_WITHOUT_VALUES, without_files, without_values
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import AudioBatch, PretrainOutput, RandomAddress

Shape = tuple[int, ...]

_FAMILIES = (FeatureEncoder, ContextNetwork, Quantizer, Masking, PredictionLoss)

_OF_UTTERANCES = {UtteranceTargets: "of_utterances", UtteranceEncoder: "of_batch"}
"""What is called in place of `forward` of parts that read what belongs to utterances."""


@dataclass
class FlowStep:
    """One call of a part.

    Attributes:
        part: Name of the part in the model.
        takes: Shape of every input tensor, by name.
        gives: Shape of every output tensor, by name.
    """

    part: str
    takes: dict[str, Shape]
    gives: dict[str, Shape]


@dataclass
class Flow:
    """One forward pass.

    Attributes:
        steps: The parts in the order in which they are called; the terms of the objective are the last step.
        sizes: Values of the letters of `w2vlab.types`.
        num_candidates: Candidates of a prediction; 0 if the loss does not choose among candidates.
        num_targets: Mean number of target frames of an utterance.
        predictions_per_target: Mean number of predictions of a target.
    """

    steps: list[FlowStep]
    sizes: dict[str, int]
    num_candidates: int
    num_targets: float
    predictions_per_target: float


def trace_flow(model: PretrainingModule, batch_size: int, num_samples: int) -> Flow:
    """Traces a batch of equally long utterances through a model.

    It uses tensors without values, so that large models need a second. If a part has to read the value of a tensor, the
    forward pass is computed instead. The model cannot be used afterwards, as parts may keep tensors without values.

    Args:
        model: The model.
        batch_size: Utterances B.
        num_samples: Samples S of each utterance.

    Returns:
        Shapes and sizes.

    Raises:
        ValueError: The utterances are too short for the model.
    """
    model.eval()  # so that parts do not collect statistics
    try:
        with without_values(model) as state:
            return _trace(model, state, batch_size, num_samples)
    except NOT_WITHOUT_VALUES:
        return _trace(model, {}, batch_size, num_samples)


@torch.no_grad()
def _trace(model: PretrainingModule, state: dict[str, Tensor], batch_size: int, num_samples: int) -> Flow:
    ids = tuple(f"utterance-{number}" for number in range(batch_size))
    batch = AudioBatch(waveform=torch.zeros(batch_size, num_samples), num_samples=(num_samples,) * batch_size, ids=ids)
    with without_files(model), _record_calls(model) as steps:
        output: PretrainOutput = functional_call(
            model, state, (batch, RandomAddress(seed=model.seed, update=0, ids=ids))
        )
    terms = model.objective_terms(output)
    steps.append(FlowStep("objective", {}, {name: tuple(term.shape) for name, term in terms.items()}))
    num_targets = sum(output.num_frames if output.mask is None else output.mask.num_targets)
    predictions = sum(output.prediction.num_predictions) / num_targets
    candidates = output.prediction.num_candidates
    return Flow(steps, _sizes(model, batch, output), candidates, num_targets / batch_size, predictions)


@contextmanager
def _record_calls(model: nn.Module) -> Iterator[list[FlowStep]]:
    """Records the calls of the parts of a model."""
    steps: list[FlowStep] = []
    with ExitStack() as stack:
        for name, child in parts_of(model):
            if isinstance(child, ContextNetwork) and getattr(model, "layers_of_loss", None):
                stack.enter_context(_recorded_method(child, "forward_layers", name, steps))
                continue
            method = next((method for kind, method in _OF_UTTERANCES.items() if isinstance(child, kind)), None)
            if method is not None:
                stack.enter_context(_recorded_method(child, method, name, steps))
            # Dropout and the like do not change shapes and are not parts.
            elif isinstance(child, _FAMILIES) or any(True for _ in child.parameters()):
                hook = _make_hook(name, steps)
                stack.callback(child.register_forward_hook(hook, with_kwargs=True).remove)
        yield steps


def parts_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields the children of a model; several losses one after another."""
    for name, child in model.named_children():
        if isinstance(child, PredictionLoss) and list(child.terms.values()) != [child]:
            yield from ((f"{name}.{term}", loss) for term, loss in child.terms.items())
        else:
            yield name, child


def _make_hook(part: str, steps: list[FlowStep]) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if isinstance(module, Teacher):
            result = dict(zip(("targets", "variance"), result, strict=True))
        steps.append(_step(part, module.forward, args, kwargs, result))

    return record


@contextmanager
def _recorded_method(module: nn.Module, method: str, part: str, steps: list[FlowStep]) -> Iterator[None]:
    """Records the calls of a method that is called in place of `forward`."""
    original = getattr(module, method)

    def recorded(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        given = dict(zip(("contexts", "layers"), result, strict=True)) if isinstance(result, tuple) else result
        steps.append(_step(part, original, args, kwargs, given))
        return result

    setattr(module, method, recorded)
    try:
        yield
    finally:
        delattr(module, method)


def _step(part: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> FlowStep:
    takes = {}
    for name, value in inspect.signature(function).bind(*args, **kwargs).arguments.items():
        takes.update(_shapes("" if is_dataclass(value) else name, value))
    return FlowStep(part, takes, _shapes("", result))


def _shapes(name: str, value: Any) -> dict[str, Shape]:
    """Returns the shapes of all tensors in a nested value, by their path."""
    if isinstance(value, Tensor):
        return {name: tuple(value.shape)}
    inner: dict[str, Any] = {}
    if is_dataclass(value):
        inner = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, dict):
        inner = value
    found: dict[str, Shape] = {}
    for key, item in inner.items():
        found.update(_shapes(f"{name}.{key}".strip("."), item))
    return found


def _sizes(model: PretrainingModule, batch: AudioBatch, output: PretrainOutput) -> dict[str, int]:
    sizes = {
        "B": len(batch),
        "S": batch.waveform.shape[1],
        "T": output.features.shape[1],
        "C": output.features.shape[2],
        "D": output.context.shape[2],
        "E": output.targets.quantized.shape[2],
        "G": model.quantizer.num_codebooks,
        "V": model.quantizer.codebook_size,
        "K": max(output.prediction.num_candidates - 1, 0),
    }
    if output.mask is not None:
        sizes["M"] = output.mask.targets.shape[1]
    return sizes
