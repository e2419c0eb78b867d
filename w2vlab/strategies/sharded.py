"""Training of models that do not fit on a device: parameters, gradients and optimiser state are sharded."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.optimizer import _optimizers_to_device
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.overrides.distributed import _sync_module_states
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from w2vlab.contexts.layer_drop import LayerDropStack

_STEPS = ("training_step", "validation_step")


class ShardedStrategy(DDPStrategy):
    """Fully sharded data parallelism (FSDP2), on CUDA and on the CPU.

    Each process holds a shard of every parameter, of its gradient and of the optimiser's state. The parameters of a
    layer are gathered while it is computed; those outside the layers are gathered for the whole step. Buffers are not
    sharded.

    Results and checkpoints equal those of `ddp`: a checkpoint holds whole tensors and can be loaded with or without
    sharding. It is gathered tensor by tensor in the host memory of the first process. Precision is autocast's, with the
    float32 islands of the parts; parameters are stored and all-gathered in float32.

    Lightning's `ModelParallelStrategy` requires the model to shard itself, writes checkpoints as folders, and does not
    run on a CPU.

    Reference:
        Rajbhandari et al. 2020, arXiv:1910.02054; Zhao et al. 2023, arXiv:2304.11277.
    """

    shards_weights = True
    """Callbacks that need all weights on every process check this."""

    def __init__(self) -> None:
        super().__init__()  # the options of DDP do not apply

    def setup(self, trainer: pl.Trainer) -> None:
        """Shards the model, and builds the optimiser on the shards."""
        assert self.accelerator is not None
        assert self.model is not None
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        if not isinstance(self.model, FSDPModule):  # it is one in the second call of a trainer
            _sync_module_states(self.model)
            self._shard(self.model)
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()
        if fitting:
            _optimizers_to_device(self.optimizers, self.root_device)

    def _shard(self, model: nn.Module) -> None:
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for module in model.modules():
            if isinstance(module, LayerDropStack):
                for layer in module:
                    fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for name in _STEPS:  # the methods that Lightning calls; they see whole parameters
            register_fsdp_forward_method(model, name)

    @contextmanager
    def block_backward_sync(self) -> Generator[None, None, None]:
        """Accumulates whole gradients without reduction until the last micro-batch of an update."""
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Returns the whole state of the model on the first process, and nothing on the others."""
        return self._gathered(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Returns the whole state of an optimiser on the first process, and nothing on the others."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        return self._gathered(optimizer.state_dict())

    def _gathered(self, state: dict[str, Any]) -> dict[str, Any]:
        def gather(value: Any) -> Any:
            if not isinstance(value, DTensor):
                return value
            whole = value.full_tensor()  # all processes take part
            return whole.cpu() if self.is_global_zero else None

        gathered: dict[str, Any] = tree_map(gather, state)
        return gathered if self.is_global_zero else {}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Loads whole tensors into a model that may be sharded already."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {name: _sharded_like(own.get(name), value) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Loads whole tensors into the shards of the optimisers."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state = {
                index: {name: _sharded_like(parameters[index], value) for name, value in values.items()}
                for index, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})


def _sharded_like(reference: Any, value: Any) -> Any:
    """Returns this process's shard of a whole tensor, if `reference`, of the same shape, is sharded."""
    if not isinstance(reference, DTensor) or not isinstance(value, Tensor) or value.shape != reference.shape:
        return value
    whole = value.to(reference.device)
    # Every process has loaded the whole tensor, so that nothing has to be sent.
    return distribute_tensor(whole, reference.device_mesh, reference.placements, src_data_rank=None)
