"""CompileModel without Inductor: for tests of everything but its kernels, which take seconds each to compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx


@contextmanager
def own_kernels() -> Iterator[None]:
    """Puts a compiler in Inductor's place that leaves kernels PyTorch's own; the rest of `torch.compile` is there."""
    look_up = torch._dynamo.lookup_backend

    def compiler(graph: fx.GraphModule, inputs: list[Tensor], config_patches: dict[str, Any]) -> Callable[..., Any]:
        return look_up("aot_eager")(graph, inputs)

    def stand_in(name: Any) -> Any:
        return compiler if name == "inductor" else look_up(name)

    with mock.patch.object(torch._dynamo, "lookup_backend", stand_in):
        yield
