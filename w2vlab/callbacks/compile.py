"""`torch.compile` for the parts of a model that benefit from it."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, fx, nn

from w2vlab.callbacks.inductor import safe_options
from w2vlab.functional.choices import check_choice
from w2vlab.interfaces import Compilable
from w2vlab.utils.messages import W2VLabWarning

Mode = Literal["default", "max-autotune-no-cudagraphs"]

MAX_VARIANTS = 64
"""Recompile limit of a module class: its shapes, with and without padding, in training and in validation."""

_WARMUP_UPDATES = 100
"""Updates in which every kind of batch should have occurred."""

_MAX_LATE_UPDATES = 3
"""Updates after the warm-up that recompile before a warning; one or two have rare batches, such as one utterance."""

logger = logging.getLogger(__name__)


class CompileModel(Callback):
    """Compiles the model with `torch.compile`, by region: encoder, layers, quantizer, and any other `Compilable`.

    Regions are compiled at their first batch, with dynamic lengths, and layers of the same structure share the compiled
    code. Values that change per batch on the host, such as masks, negatives and the layers that LayerDrop drops, stay
    outside of regions. Batches with and without padding, training and validation, and batches of a single utterance
    are compiled separately.

    The computation is the same except for rounding and for the noise that is drawn on the device: dropout and Gumbel
    noise inside regions are different samples of the same distribution, still determined by (seed, update,
    micro-batch). Parameter names do not change, so checkpoints are exchangeable with runs without this callback.

    With PyTorch before 2.14, CPU kernels are generated without SIMD vectors, because vectorised kernels of torch 2.11.0
    write past the ends of buffers, which crashed the process on an AMD EPYC with AVX-512 (`callbacks/inductor.py`);
    torch 2.14.1 does not.

    If compilation of a region fails, it falls back to eager mode, and a warning gives the reason.

    Args:
        mode: `default`, or `max-autotune-no-cudagraphs`, which benchmarks more kernels and takes many times as long to
            start. CUDA graphs are not supported, because they would be captured again for batches of every shape.
        dynamic: Compile once for all shapes. False compiles once a shape, for data whose batches all have the same one.
        parts: The parts of the model to compile, such as `encoder`; None for all that have regions.
        on_cpu: Whether to compile for a CPU as well; false in the files for GPUs, which can be tried without one.

    Raises:
        ValueError: `mode` is unknown, or `parts` is empty.
    """

    def __init__(
        self, mode: Mode = "default", dynamic: bool = True, parts: Sequence[str] | None = None, on_cpu: bool = True
    ) -> None:
        super().__init__()
        check_choice("mode", mode, Mode)
        if parts is not None and not parts:
            raise ValueError("`parts` must name at least one part, or be null for all, but is empty.")
        self.dynamic = dynamic
        self.parts = parts
        self.on_cpu = on_cpu
        self.compiler = InductorWithFallback(mode)
        self._first_update = 0
        self._graphs_before = 0
        self._late_updates = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Marks the regions for compilation; each is compiled at its first call.

        Raises:
            ValueError: `parts` has a name that is not a part of the model.
        """
        if not self.on_cpu and trainer.strategy.root_device.type == "cpu":
            return
        regions = compile_regions(pl_module, self.compiler, self.dynamic, self.parts)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if any(getattr(callback, "keeps_graph", False) for callback in callbacks):
            # With several backward passes over one graph, a pass must not reuse the buffers of saved tensors.
            functorch: Any = importlib.import_module("torch._functorch.config")  # torch.compile imports it anyway
            functorch.donated_buffer = False
        if not regions and self.parts is None:
            warnings.warn(
                "CompileModel has no effect: no part of this model can be compiled.",
                category=W2VLabWarning,
                stacklevel=2,
            )
        elif trainer.is_global_zero:
            found = ", ".join(f"{name} ({len(modules)})" for name, modules in regions.items())
            logger.info("Regions to compile at the first batch, by part: %s.", found)
            if trainer.strategy.root_device.type == "cpu" and safe_options(torch.__version__):
                logger.info(
                    "CPU kernels are generated without SIMD vectors, because vectorised kernels of torch %s write past "
                    "the ends of buffers; those of torch 2.14.1 do not.",
                    torch.__version__,
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stores the update at which training starts."""
        self._first_update = trainer.global_step
        self._late_updates = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stores the number of graphs compiled so far."""
        self._graphs_before = self.compiler.num_graphs

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Warns once if regions are still recompiled after the warm-up."""
        late = trainer.global_step - self._first_update > _WARMUP_UPDATES
        if not late or self.compiler.num_graphs == self._graphs_before:
            return
        self._late_updates += 1
        if self._late_updates == _MAX_LATE_UPDATES:
            warnings.warn(
                f"CompileModel still recompiles: since update {self._first_update + _WARMUP_UPDATES}, "
                f"{_MAX_LATE_UPDATES} updates recompiled a region, which takes seconds each. Set "
                "TORCH_LOGS=recompiles in the environment to log the reasons.",
                category=W2VLabWarning,
                stacklevel=2,
            )


def compile_regions(
    model: nn.Module, compiler: InductorWithFallback, dynamic: bool = True, parts: Sequence[str] | None = None
) -> dict[str, list[nn.Module]]:
    """Marks the regions of a model for compilation in place; each is compiled at its first call.

    Args:
        model: The model; its parts are its children.
        compiler: The backend. PyTorch shares compiled code only between modules that have the same backend object.
        dynamic: Compile once for all shapes.
        parts: Names of the parts to compile; None for all.

    Returns:
        The regions by part, as `find_regions` returns them.

    Raises:
        ValueError: `parts` has a name that is not a part of the model.
    """
    regions = find_regions(model, parts)
    # The recompile limit applies to all modules of a class together, and the default is too low for some classes.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_VARIANTS)
    # DDP already overlaps the all-reduce of one region with the backward pass of the next, so that splitting graphs
    # inside of regions gains nothing.
    torch._dynamo.config.optimize_ddp = False
    for modules in regions.values():
        for module in modules:
            module.compile(backend=compiler, dynamic=dynamic)
    return regions


def find_regions(model: nn.Module, parts: Sequence[str] | None = None) -> dict[str, list[nn.Module]]:
    """Returns the modules that are compiled as one region each, by the part of the model that they belong to.

    Args:
        model: The model; its parts are its children.
        parts: Names of the parts to search; None for all.

    Raises:
        ValueError: `parts` has a name that is not a part of the model.
    """
    children = dict(model.named_children())
    unknown = [name for name in parts or () if name not in children]
    if unknown:
        raise ValueError(f"`parts` must name parts of the model, {', '.join(children)}, but one is {unknown[0]}.")
    regions = {name: _find_compilable(child) for name, child in children.items() if parts is None or name in parts}
    for name in parts or ():
        if not regions[name]:
            warnings.warn(
                f"`parts` has no effect on {name}: none of its modules can be compiled.",
                category=W2VLabWarning,
                stacklevel=3,
            )
    return {name: modules for name, modules in regions.items() if modules}


def _find_compilable(module: nn.Module) -> list[nn.Module]:
    """Returns the outermost `Compilable` modules."""
    if isinstance(module, Compilable):
        return [module]
    return [region for child in module.children() for region in _find_compilable(child)]


class InductorWithFallback:
    """A backend for `torch.compile`: Inductor, with a fallback to the eager graph if compilation fails.

    Use one object for all regions, because PyTorch shares compiled code only between modules with the same backend.

    Args:
        mode: As in `torch.compile`.
    """

    def __init__(self, mode: str = "default") -> None:
        self.mode = mode
        self.num_graphs = 0
        """Graphs received so far."""

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        """Returns a callable that computes `graph`."""
        from torch._dynamo.exc import RestartAnalysis, SkipFrame  # slow to import, needed only to compile

        options = {**torch._inductor.list_mode_options(self.mode), **safe_options(torch.__version__)}
        inductor: Callable[..., Callable[..., Any]] = torch._dynamo.lookup_backend("inductor")
        compiled: Callable[..., Any] = graph.forward
        try:
            compiled = inductor(graph, inputs, config_patches=options)
        except (RestartAnalysis, SkipFrame):
            raise  # Dynamo's control flow: it traces again in another way
        except Exception as error:
            if os.environ.get("W2VLAB_TRACEBACK") == "1":
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            warnings.warn(
                f"CompileModel has no effect on a region that could not be compiled: {reason} (torch.compile needs a "
                "C++ compiler, such as g++, on a CPU, and Triton with a C compiler on a GPU; set W2VLAB_TRACEBACK=1 to "
                "raise the error instead)",
                category=W2VLabWarning,
                stacklevel=2,
            )
        self.num_graphs += 1
        return compiled
