"""Updates that are skipped because their gradient, or their loss, is not finite."""

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
    """Counts skipped updates on the host, without waiting for the device.

    On a GPU the outcome of an update is read during the next one.

    Attributes:
        total: Updates that were skipped.
        in_a_row: Those since the last one that was not.
        last_ids: Utterances of this process in the last skipped update: those of the micro-batches whose loss was not
            finite, on whichever process they were; of all micro-batches if every loss was finite and only the
            gradient was not.
    """

    total: int = 0
    in_a_row: int = 0
    last_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event | None, list[tuple[str, ...]]] | None = None

    def record(self, finite: Tensor, losses: Sequence[Tensor], bad_losses: Tensor, ids: list[tuple[str, ...]]) -> None:
        """Records how an update ended.

        Args:
            finite: Whether its loss and gradient were finite, `()`.
            losses: Of this process's micro-batches, `()` each.
            bad_losses: How many losses were not finite, on all processes, `()`.
            ids: Utterances of each of the micro-batches.
        """
        self.read_pending()
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
        """Reads on the host how the last recorded update ended."""
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
    """Has the coming step of `optimizer` change nothing unless `finite` `()`.

    A fused optimiser reads it on the device. For any other the host has to know, which on a GPU waits once an update.
    """
    if optimizer.defaults.get("fused") and finite.is_cuda:
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # read by PyTorch's fused kernels
    elif not finite:
        # Without a gradient there is nothing to do, not even to decay weights or averages.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def check_optimizers(trainer: pl.Trainer) -> None:
    """Refuses fused optimisers under a gradient scaler, which gives them gradients before they are scaled back.

    Then the norm of the gradient, its clipping and the decision to skip would be those of scaled gradients. One that
    chose by itself to be fused chooses otherwise.

    Raises:
        ValueError: There is one.
    """
    if getattr(trainer.precision_plugin, "scaler", None) is None:
        return
    for optimizer in trainer.optimizers:
        if isinstance(optimizer, Wav2Vec2AdamW) and optimizer.chooses_fused:
            optimizer.leave_fused()
        if optimizer.defaults.get("fused"):
            raise ValueError(
                "`model.optimizer.fused` must be false with `--trainer.precision=16-mixed`, but is true. Leave it out, "
                "or take bf16-mixed, which needs no scaling."
            )
