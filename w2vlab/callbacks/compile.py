"""Compiles the parts of a model that gain by it."""

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
from w2vlab.wording import W2VLabWarning

Mode = Literal["default", "max-autotune-no-cudagraphs"]

MAX_VARIANTS = 64
"""Of one class of module: each of its shapes, with and without padding, in training and in validation."""

_SETTLED = 100
"""Updates in which every kind of batch should have been seen."""

_LATE = 3
"""Later updates that compile before it is warned of: one or two are rare batches, such as a single utterance."""

logger = logging.getLogger(__name__)


class CompileModel(Callback):
    """Compiles the model with `torch.compile`, in regions: encoder, layers, quantizer, whatever is `Compilable`.

    Regions are compiled at their first batch, once for batches of all lengths, and layers that are alike share what was
    compiled. What differs from batch to batch on the host, such as masks, negatives and the layers that are dropped,
    stays between regions. A batch with padding and one without, training and validation, and a batch of a single
    utterance are compiled each for itself.

    The computation is the same but for rounding and for the noise that is drawn on the device: dropout and Gumbel noise
    inside regions are other numbers of the same distribution, still given by (seed, update, micro-batch). Weights keep
    their names, so checkpoints go to and from runs without this callback.

    With PyTorch before 2.14, kernels for processors are written without vectors. Those with vectors of torch 2.11.0
    write past the ends of buffers, which was seen to end the process on an AMD EPYC with AVX-512
    (`callbacks/inductor.py`); torch 2.14.1 does not.

    Where the compiler fails, the region is computed as without this callback, and a warning says why.

    Args:
        mode: `default`, or `max-autotune-no-cudagraphs`, which tries out more kernels and takes many times as long to
            start. CUDA graphs are not offered: they would be recorded anew for batches of every shape.
        dynamic: Compile once for all shapes. False compiles each shape for itself, which is for batches that all have
            the same one.
        parts: The parts of the model to compile, such as `encoder`; None for all that have regions.

    Raises:
        ValueError: `mode` is another one, or `parts` names nothing.
    """

    def __init__(self, mode: Mode = "default", dynamic: bool = True, parts: Sequence[str] | None = None) -> None:
        super().__init__()
        check_choice("mode", mode, Mode)
        if parts is not None and not parts:
            raise ValueError("`parts` must name at least one part, or be null for all, but is empty.")
        self.dynamic = dynamic
        self.parts = parts
        self.compiler = CompilerOrEager(mode)
        self._first_update = 0
        self._graphs_before = 0
        self._late_updates = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Marks the regions; each is compiled when it is first called.

        Raises:
            ValueError: `parts` names something that the model does not have.
        """
        regions = compile_regions(pl_module, self.compiler, self.dynamic, self.parts)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if any(getattr(callback, "keeps_graph", False) for callback in callbacks):
            # A backward pass that is not the last one must not give the memory of its tensors away.
            functorch: Any = importlib.import_module("torch._functorch.config")  # as torch.compile would, later
            functorch.donated_buffer = False
        if not regions and self.parts is None:
            warnings.warn(
                "CompileModel has no effect: no part of this model can be compiled.",
                category=W2VLabWarning,
                stacklevel=2,
            )
        elif trainer.is_global_zero:
            found = ", ".join(f"{name} ({len(modules)})" for name, modules in regions.items())
            logger.info("To be compiled at the first batch, by part and number of regions: %s.", found)
            if trainer.strategy.root_device.type == "cpu" and safe_options(torch.__version__):
                logger.info(
                    "Kernels are written without vectors, because those with vectors of torch %s write past the ends "
                    "of buffers; those of torch 2.14.1 do not.",
                    torch.__version__,
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes where training begins."""
        self._first_update = trainer.global_step
        self._late_updates = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes what is compiled already."""
        self._graphs_before = self.compiler.num_graphs

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Warns once, when batches are still compiled for long after all kinds of them should have been seen."""
        late = trainer.global_step - self._first_update > _SETTLED
        if not late or self.compiler.num_graphs == self._graphs_before:
            return
        self._late_updates += 1
        if self._late_updates == _LATE:
            warnings.warn(
                f"CompileModel still compiles: since update {self._first_update + _SETTLED}, {_LATE} updates had "
                "something new to a region, and each of them waited for seconds. With TORCH_LOGS=recompiles in the "
                "environment PyTorch says what it was.",
                category=W2VLabWarning,
                stacklevel=2,
            )


def compile_regions(
    model: nn.Module, compiler: CompilerOrEager, dynamic: bool = True, parts: Sequence[str] | None = None
) -> dict[str, list[nn.Module]]:
    """Has the regions of a model compiled in place, each when it is first called; returns them as `find_regions` does.

    Args:
        model: The model; its parts are its children.
        compiler: What compiles. PyTorch shares code between modules that have the same object only.
        dynamic: Compile once for all shapes.
        parts: Names of the parts to compile; None for all.

    Raises:
        ValueError: `parts` names something that the model does not have.
    """
    regions = find_regions(model, parts)
    # What is compiled for the modules of a class has one limit, which by default is below what some have.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_VARIANTS)
    # DDP sends the gradients of a region while the one before it is computed; a cut inside of regions gains nothing.
    torch._dynamo.config.optimize_ddp = False
    for modules in regions.values():
        for module in modules:
            module.compile(backend=compiler, dynamic=dynamic)
    return regions


def find_regions(model: nn.Module, parts: Sequence[str] | None = None) -> dict[str, list[nn.Module]]:
    """Returns the modules that are compiled, each as one piece, by the part of the model that they belong to.

    Args:
        model: The model; its parts are its children.
        parts: Names of the parts to look at; None for all.

    Raises:
        ValueError: `parts` names something that the model does not have.
    """
    children = dict(model.named_children())
    unknown = [name for name in parts or () if name not in children]
    if unknown:
        raise ValueError(f"`parts` must name parts of the model, {', '.join(children)}, but one is {unknown[0]}.")
    regions = {name: _outermost(child) for name, child in children.items() if parts is None or name in parts}
    for name in parts or ():
        if not regions[name]:
            warnings.warn(
                f"`parts` has no effect on {name}: nothing in it can be compiled in one piece.",
                category=W2VLabWarning,
                stacklevel=3,
            )
    return {name: modules for name, modules in regions.items() if modules}


def _outermost(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, Compilable):
        return [module]
    return [region for child in module.children() for region in _outermost(child)]


class CompilerOrEager:
    """The compiler that `torch.compile` is given: Inductor, and where it fails, the graph computed as it is.

    One object for all regions, because PyTorch shares code between modules that have the same compiler only.

    Args:
        mode: As in `torch.compile`.
    """

    def __init__(self, mode: str = "default") -> None:
        self.mode = mode
        self.num_graphs = 0
        """Graphs that were handed over so far."""

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        """Returns what computes `graph`."""
        from torch._dynamo.exc import RestartAnalysis, SkipFrame  # only who compiles needs the compiler

        options = {**torch._inductor.list_mode_options(self.mode), **safe_options(torch.__version__)}
        inductor: Callable[..., Callable[..., Any]] = torch._dynamo.lookup_backend("inductor")
        computes: Callable[..., Any] = graph.forward
        try:
            computes = inductor(graph, inputs, config_patches=options)
        except (RestartAnalysis, SkipFrame):
            raise  # how PyTorch says that it will try again in another way
        except Exception as error:
            if os.environ.get("W2VLAB_TRACEBACK") == "1":
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            warnings.warn(
                f"CompileModel has no effect on a region that could not be compiled: {reason} (torch.compile needs a "
                "C++ compiler, such as g++, on a CPU, and Triton with a C compiler on a GPU; W2VLAB_TRACEBACK=1 has it "
                "fail in place of this warning)",
                category=W2VLabWarning,
                stacklevel=2,
            )
        self.num_graphs += 1
        return computes
