"""Skips updates with a loss or a gradient that is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from w2vlab.optim import Wav2Vec2AdamW


@dataclass
class SkippedUpdates:
    """Counts skipped updates on the host, without synchronizing with the device.

    On a GPU the outcome of an update is read during the next one.

    Attributes:
        total: Number of skipped updates.
        in_a_row: Number of consecutive skipped updates up to now.
        last_ids: Utterances of this process in the last skipped update: those of micro-batches with a non-finite loss;
            those of all micro-batches if all losses on all processes were finite and only the gradient was not.
    """

    total: int = 0
    in_a_row: int = 0
    last_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.now: Tensor | None = None
        """Whether the last recorded update is skipped, `()`, on the device."""
        self._pending: tuple[Tensor, torch.cuda.Event | None, list[tuple[str, ...]]] | None = None

    def record(self, finite: Tensor, losses: Sequence[Tensor], bad_losses: Tensor, ids: list[tuple[str, ...]]) -> None:
        """Records the outcome of an update.

        Args:
            finite: Whether its loss and gradient were finite, `()`.
            losses: Losses of the micro-batches of this process, `()` each.
            bad_losses: Number of non-finite losses on all processes, `()`.
            ids: Utterances of each of the micro-batches.
        """
        self.read_pending()
        self.now = ~finite
        outcome = torch.stack([finite, bad_losses > 0, *(~loss.isfinite() for loss in losses)])
        event = None
        if outcome.is_cuda:
            host = torch.empty(outcome.shape, dtype=outcome.dtype, pin_memory=True)
            host.copy_(outcome, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            outcome = host
        self._pending = outcome, event, ids
        if event is None:
            self.read_pending()

    def read_pending(self) -> None:
        """Reads the outcome of the last recorded update on the host."""
        if self._pending is None:
            return
        outcome, event, ids = self._pending
        self._pending = None
        if event is not None:
            event.synchronize()
        finite, some_loss, *own = outcome.tolist()
        if finite:
            self.in_a_row = 0
            return
        self.total += 1
        self.in_a_row += 1
        self.last_ids = tuple(
            name for names, bad in zip(ids, own, strict=True) if bad or not some_loss for name in names
        )


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """Returns the norm of the gradients of all parameters of `optimizer`, `()`, on every process."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    full = getattr(norm, "full_tensor", None)  # DTensor's; importing it takes as long as half of PyTorch
    return norm if full is None else full()


def skip_unless(finite: Tensor, optimizer: Optimizer) -> None:
    """Turns the next step of `optimizer` into a no-op unless the update is finite.

    A fused optimizer reads the flag on the device. For any other one the host reads it, which synchronizes with a GPU
    once per update.

    Args:
        finite: Whether loss and gradient of the update are finite, `()`.
        optimizer: The optimizer.
    """
    if optimizer.defaults.get("fused") and finite.is_cuda:
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # read by PyTorch's fused kernels
    elif not finite:
        # An optimizer skips parameters without gradient: no weight decay, no moving average.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def check_optimizers(trainer: pl.Trainer) -> None:
    """Prepares fused optimizers for the precision of the run.

    With a gradient scaler, a fused optimizer receives scaled gradients, so that gradient norm, clipping and the check
    for non-finite values would use scaled gradients: `Wav2Vec2AdamW` is switched to its unfused version if it was fused
    by default. Without one, gradients are not scaled, and may be clipped.

    Args:
        trainer: The trainer with its optimizers.

    Raises:
        ValueError: An optimizer is fused by its options, and gradients are scaled.
    """
    if getattr(trainer.precision_plugin, "scaler", None) is None:
        for optimizer in trainer.optimizers:
            # Lightning takes this flag of fused optimizers for a scaler, and refuses to clip under bf16-mixed.
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return
    for optimizer in trainer.optimizers:
        if isinstance(optimizer, Wav2Vec2AdamW) and optimizer.chooses_fused:
            optimizer.leave_fused()
        if optimizer.defaults.get("fused"):
            raise ValueError(
                "`model.optimizer.fused` must be false with `--trainer.precision=16-mixed`, but is true. Leave it out, "
                "or use bf16-mixed, which needs no scaling."
            )
