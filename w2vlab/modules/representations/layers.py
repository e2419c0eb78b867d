"""The layers of a context network, and their outputs in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from w2vlab.contexts.conv import CausalConvBlock
from w2vlab.contexts.layer_drop import LayerDropStack
from w2vlab.interfaces import ContextNetwork


class _LastLayerReached(Exception):
    """The highest layer that was asked for has been computed."""


def layer_modules(context: ContextNetwork) -> list[nn.Module]:
    """Returns the layers of a context network, in order; none if it is not a sequence of layers."""
    for module in context.modules():
        if isinstance(module, LayerDropStack):
            return list(module)
    blocks = getattr(context, "blocks", None)
    if isinstance(blocks, nn.ModuleList) and all(isinstance(block, CausalConvBlock) for block in blocks):
        return list(blocks)
    return []


@contextmanager
def recorded_layers(
    context: ContextNetwork, numbers: Collection[int], record: Callable[[int, Tensor], None], stop: bool = False
) -> Iterator[None]:
    """Passes the outputs `(B, T, D)` of layers to `record` in every forward pass within this context.

    Args:
        context: The context network.
        numbers: Layers, counted from 1; 0 is the input of the first layer. Others are left out.
        record: Is called with the number of a layer and its output, in order.
        stop: End the forward pass, and this context, after the highest of `numbers`; the layers above are not computed.
    """
    layers = layer_modules(context)
    last = max(numbers, default=len(layers)) if stop else len(layers) + 1

    def record_output(number: int, output: Tensor) -> None:
        record(number, output)
        if number == last:
            raise _LastLayerReached

    with ExitStack() as stack:
        for number, layer in enumerate(layers, start=1):
            if number in numbers:

                def of_layer(layer: nn.Module, args: Any, output: Tensor, number: int = number) -> None:
                    record_output(number, output)

                stack.callback(layer.register_forward_hook(of_layer).remove)
        if layers and 0 in numbers:

            def of_input(layer: nn.Module, args: Any) -> None:
                record_output(0, args[0])

            stack.callback(layers[0].register_forward_pre_hook(of_input).remove)
        with suppress(_LastLayerReached):
            yield
