"""Selects representations of a model, and records them in a forward pass."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from w2vlab.contexts.conv import CausalConvBlock
from w2vlab.contexts.layer_drop import LayerDropStack
from w2vlab.interfaces import ContextNetwork
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.utils.messages import W2VLabWarning

LATENTS = "latents"
CONTEXT = "context"
QUANTIZED = "quantized"
CODES = "codes"
ALL = "all"

_LAYER = "layer "


def layer_name(number: int) -> str:
    """Returns the name of the output of the context network's layer `number`; 0 is the input of the first layer."""
    return f"{_LAYER}{number}"


def layer_modules(context: ContextNetwork) -> list[nn.Module]:
    """Returns the layers of a context network, in order; none if it is not a sequence of layers."""
    for module in context.modules():
        if isinstance(module, LayerDropStack):
            return list(module)
    blocks = getattr(context, "blocks", None)
    if isinstance(blocks, nn.ModuleList) and all(isinstance(block, CausalConvBlock) for block in blocks):
        return list(blocks)
    return []


def available_representations(module: PretrainingModule) -> tuple[str, ...]:
    """Returns the names of the representations of a model, from input to output."""
    layers = layer_modules(module.context)
    hidden = [layer_name(number) for number in range(len(layers) + 1)] if layers else []
    discrete = [QUANTIZED, CODES] if module.quantizer.num_codebooks else []
    return LATENTS, *hidden, CONTEXT, *discrete


def select_representations(module: PretrainingModule, layers: str) -> tuple[str, ...]:
    """Returns the names of the representations in `layers`, in the order of `available_representations`.

    Args:
        module: The model.
        layers: `all`, or numbers of layers and names, separated by commas: `0,3,context,codes`.

    A model without codebooks has no `quantized` and no `codes`. Beside other layers they are left out with a warning,
    so that one list of layers evaluates every trial of a sweep over quantizers.

    Raises:
        ValueError: `layers` is empty, or names something that the model does not have.
    """
    known = available_representations(module)
    if layers.strip() == ALL:
        return known
    rule = f"`layers` must be {ALL} or some of {_join_names(known)}, separated by commas, but"
    requested = set()
    for name in filter(None, (part.strip() for part in layers.split(","))):
        full = layer_name(int(name)) if name.lstrip("-").isdecimal() else name
        if full not in (*known, QUANTIZED, CODES):
            raise ValueError(f"{rule} has {name}.")
        requested.add(full)
    missing = [name for name in (QUANTIZED, CODES) if name in requested and name not in known]
    if requested and requested.issubset(missing):
        raise ValueError(f"{rule} has {missing[0]}: {type(module.quantizer).__name__} has no codebooks.")
    if missing:
        warnings.warn(
            f"`layers` has {' and '.join(missing)}, which this model does not have "
            f"({type(module.quantizer).__name__} has no codebooks): not evaluated.",
            category=W2VLabWarning,
            stacklevel=2,
        )
    if not requested:
        raise ValueError(f"{rule} is empty.")
    return tuple(name for name in known if name in requested)


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(name.removeprefix(_LAYER) for name in names)


@contextmanager
def recorded_layers(context: ContextNetwork, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Registers forward hooks that store the outputs `(B, T, D)` of the named layers in the mapping that it yields."""
    layers = layer_modules(context)
    outputs: dict[str, Tensor] = {}

    with ExitStack() as stack:
        for number, layer in enumerate(layers, start=1):
            if (name := layer_name(number)) in names:

                def store_output(layer: nn.Module, args: Any, output: Tensor, name: str = name) -> None:
                    outputs[name] = output

                stack.callback(layer.register_forward_hook(store_output).remove)
        if layers and (name := layer_name(0)) in names:

            def store_input(layer: nn.Module, args: Any, name: str = name) -> None:
                outputs[name] = args[0]

            stack.callback(layers[0].register_forward_pre_hook(store_input).remove)
        yield outputs
