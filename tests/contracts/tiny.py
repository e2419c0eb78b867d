"""Builds a tiny instance of any registered part from its signature, so that a new part is tested unasked."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.helpers.centers_file import tiny_centers
from tests.helpers.unit_files import tiny_units
from w2vlab.contexts import TransformerContext
from w2vlab.interfaces import AttentionPositions, UtteranceTargets
from w2vlab.modules import MaskedPrediction, PretrainingModule
from w2vlab.registry import FAMILIES, load_parts, part_classes
from w2vlab.types import AudioBatch, RandomAddress, TargetSpec
from w2vlab.vocabulary import Vocabulary

WIDTH = 8
"""Of everything that has a width, so that any part fits any other."""

TINY: dict[str, Any] = {
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "channel_length": 3,
    "code_dim": 4,
    "codebook_size": 5,
    "dropout": 0.0,
    "feature_dropout": 0.0,
    "feedforward_dim": 12,
    "hop_samples": 5,
    "input_dropout": 0.0,
    "kernel_size": 3,
    "layer_drop": 0.0,
    "length": 3,
    "levels": [3, 4],
    "model_dim": WIDTH,
    "num_codebooks": 2,
    "num_heads": 2,
    "num_layers": 2,
    "num_mels": WIDTH // 2,  # of which an encoder stacks two
    "num_negatives": 4,
    "num_steps": 3,
    "output_dim": WIDTH,
    "position_groups": 2,
    "position_kernel": 4,
    "projection_dim": 6,
    "receptive_field": 20,  # of the file of units
    "similarity": "cosine",  # which has a projection
    "stride": 10,
    "window_samples": 16,
}
"""What an argument of this name is set to; any other keeps its default."""

TINY_LAYERS: dict[str, Any] = {
    "encoder": [(WIDTH, 10, 5), (WIDTH, 3, 2)],  # 20 samples seen, one latent every 10
    "context": [(WIDTH, 2), (WIDTH, 3)],
    "teacher": 2,  # the number of layers that targets are made from
}

SPEC = TargetSpec(dim=WIDTH, num_codebooks=2, codebook_size=5)
"""The targets that losses and negative samplers are built for."""

SUPPLIED: dict[str, dict[str, Any]] = {
    "context": {"input_dim": WIDTH},
    "positions": {"model_dim": WIDTH, "num_heads": 2},
    "quantizer": {"input_dim": WIDTH},
    "teacher": {"context": TransformerContext(WIDTH, WIDTH, 2, 2, 12, position_kernel=4, position_groups=2)},
    "loss": {"context_dim": WIDTH, "targets": SPEC},
    "negatives": {"targets": SPEC},
    "decoder": {"vocabulary": Vocabulary.of("characters", ["ab ba"])},
}
"""The arguments that a module supplies, by family; the other families have none."""

load_parts()


def all_parts() -> list[tuple[str, type]]:
    return [(family, cls) for family in FAMILIES for cls in part_classes(family).values()]


def classes(family: str) -> list[type]:
    return list(part_classes(family).values())


def family_of(cls: type) -> str:
    return next(family for family, part in all_parts() if part is cls)


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of the constructor; one that a part inherits may have only `*args, **kwargs`."""
    variable = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return {n: p for n, p in inspect.signature(cls).parameters.items() if p.kind not in variable}


def tiny_arguments(cls: type) -> dict[str, Any]:
    names = parameters(cls)
    supplied = SUPPLIED["positions"] if issubclass(cls, AttentionPositions) else ()
    arguments = {name: value for name, value in TINY.items() if name in names and name not in supplied}
    if "centers" in names:
        arguments["centers"] = tiny_centers(TINY["codebook_size"], WIDTH)
    if "path" in names:
        arguments["path"] = tiny_units()
    if "layers" in names and family_of(cls) in TINY_LAYERS:
        arguments["layers"] = TINY_LAYERS[family_of(cls)]
    # A part inside a part, which would have its published size.
    parts = {name: p.default for name, p in names.items() if name in FAMILIES and p.default is not p.empty}
    nested = {name: default for name, default in parts.items() if inspect.isclass(default)}
    return arguments | {name: factory(part) for name, part in nested.items()}


def factory(cls: type, **arguments: Any) -> Any:
    return partial(cls, **(tiny_arguments(cls) | arguments))


def build(cls: type, **arguments: Any) -> nn.Module:
    return factory(cls, **arguments)(*SUPPLIED.get(family_of(cls), {}).values())


def with_quantizers(models: Iterable[type], quantizers: Iterable[type]) -> list[tuple[type, type]]:
    """Pairs of models and quantizers; targets that do not follow from latents cannot be the inputs of a model."""
    return [
        (model, quantizer)
        for model in models
        for quantizer in quantizers
        if issubclass(model, MaskedPrediction) or not issubclass(quantizer, UtteranceTargets)
    ]


def build_model(cls: type, **arguments: Any) -> PretrainingModule:
    """A model whose parts are its default ones, shrunk, apart from what `arguments` gives."""
    parts = {
        name: factory(parameter.default)
        for name, parameter in parameters(cls).items()
        if name in FAMILIES and name not in arguments
    }
    own = {name: value for name, value in tiny_arguments(cls).items() if name not in parts}
    model: PretrainingModule = cls(**(own | parts | arguments))
    return model


def audio_batch(num_samples: tuple[int, ...], first: int = 0) -> AudioBatch:
    """Noise; an utterance is the same in every batch, numbered from `first`."""
    waveform = torch.zeros(len(num_samples), max(num_samples))
    for row, samples in enumerate(num_samples):
        generator = torch.Generator().manual_seed(first + row)
        waveform[row, :samples] = 0.3 * torch.randn(samples, generator=generator)
    return AudioBatch(
        waveform=waveform,
        num_samples=num_samples,
        ids=tuple(f"utterance-{first + row}" for row in range(len(num_samples))),
    )


def address(batch_size: int, update: int = 0, first: int = 0) -> RandomAddress:
    return RandomAddress(seed=7, update=update, ids=tuple(f"utterance-{first + row}" for row in range(batch_size)))


def padding_mask(lengths: tuple[int, ...]) -> Tensor:
    return torch.arange(max(lengths))[None] >= torch.tensor(lengths)[:, None]


def assert_gradients_finite(module: nn.Module, *inputs: Tensor) -> None:
    """Every parameter has a gradient (or DDP would wait for it for ever), and gradient reached every input.

    A teacher's parameters are averages, which have none.
    """
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            assert name.startswith("teacher."), f"`{name}` is not trained"
            assert parameter.grad is None, f"`{name}` has a gradient"
            continue
        assert parameter.grad is not None, f"`{name}` has no gradient"
        assert parameter.grad.isfinite().all(), name
    for index, tensor in enumerate(inputs):
        assert tensor.grad is not None, f"no gradient reaches input {index}"
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0, f"the gradient of input {index} is zero"


class OnlyFloat64(TorchDispatchMode):
    """Fails at the first operation that turns float64 into more than a single number of less."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if any(tensor.dtype == torch.float64 for tensor in tree_leaves(args) if isinstance(tensor, Tensor)):
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.ndim:
                    assert tensor.dtype == torch.float64, f"{func} lowers the precision to {tensor.dtype}"
        return result
