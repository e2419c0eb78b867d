"""How the frames of a corpus are computed: on which devices, in which batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning.pytorch import Callback, Trainer

from w2vlab.types import Seconds

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True, kw_only=True)
class Computing:
    """How frames are computed.

    Attributes:
        accelerator: As in `Trainer`: `auto`, `cpu` or `gpu`.
        devices: As in `Trainer`: processes, each on its own GPU if there are GPUs.
        precision: As in `Trainer`.
        batch_seconds: Audio in a batch, at most, in seconds, including padding.
        num_workers: Processes that read audio.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Literal["auto"] | int = 1
    precision: Precision = "32-true"
    batch_seconds: Seconds = 100.0
    num_workers: int = 2

    def trainer(self, callbacks: Sequence[Callback]) -> Trainer:
        """Returns a trainer that predicts, and neither logs nor writes anything itself."""
        return Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            precision=self.precision,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
