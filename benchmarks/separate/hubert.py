"""Training steps of `minimal-hubert` and `spidr`, in a Python environment of their own.

    python -m benchmarks.train_step --model hubert --peer minimal-hubert --python ENVIRONMENT/bin/python

Both packages need newer versions of Python and PyTorch than this one allows. So this file imports PyTorch and the
peer, and nothing else but `benchmarks.side_by_side`; `benchmarks.train_step` runs it by the interpreter of that
environment. `spidr` is under CC-BY-NC-4.0: it is called here, and nothing of it is copied.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.side_by_side import answer

PEERS = ("minimal-hubert", "spidr")
NUM_CLASSES = 500
SAMPLE_RATE = 16_000


def num_frames(num_samples: int) -> int:
    """Returns the frames of the published encoder."""
    return (num_samples - 400) // 320 + 1


def hidden_frames(batch: int, frames: int) -> Tensor:
    """Draws the mask of HuBERT, 80 % times spans of 10 frames that may overlap: the masked frames, `(B, M)`."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(batch):
        starts = torch.randperm(frames - 10, generator=generator)[: int(0.8 * frames / 10 + 0.5)]
        rows.append(torch.unique(starts[:, None] + torch.arange(10)))
    fewest = min(map(len, rows))
    return torch.stack([row[torch.randperm(len(row), generator=generator)[:fewest]].sort().values for row in rows])


def minimal_hubert(batch: int, frames: int) -> tuple[nn.Module, Callable[[Any, Tensor], Tensor], Callable[[], None]]:
    """Returns HuBERT BASE, without LayerDrop, its loss summed over masked frames, and nothing to do after an update."""
    from minimal_hubert import HuBERTPretrain

    model = HuBERTPretrain(NUM_CLASSES).train()
    model.encoder.layer_drop = 0.0
    labels = torch.randint(NUM_CLASSES, (batch, frames), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(batch, frames, dtype=torch.bool).scatter_(1, hidden_frames(batch, frames), True)

    def loss(model: Any, waveform: Tensor) -> Tensor:
        total: Tensor = model(waveform, labels, mask=mask, attention_mask=None)[0].sum()
        return total / mask.sum()

    return model, loss, lambda: None


def spidr(batch: int, frames: int) -> tuple[nn.Module, Callable[[Any, Tensor], Tensor], Callable[[], None]]:
    """Returns SpidR, which has a teacher of the same size, its loss, and the update of the teacher."""
    from spidr.models.spidr import SpidR

    model = SpidR().train()
    mask, updates = hidden_frames(batch, frames), iter(range(1, 1 << 30))

    def loss(model: Any, waveform: Tensor) -> Tensor:
        total: Tensor = model(waveform, mask_indices=mask)[0].sum()
        return total / mask.numel()

    def after() -> None:
        model.update_ema(next(updates))

    return model, loss, after


def step_of(peer: str, batch: int, seconds: float, precision: str) -> Callable[[], None]:
    """Returns a training step as in the training script of a peer, with masks and labels drawn in advance.

    Args:
        peer: One of `PEERS`.
        batch: Utterances.
        seconds: Of each utterance.
        precision: 32-true or bf16-mixed (autocast).
    """
    num_samples = int(seconds * SAMPLE_RATE)
    waveform = 0.1 * torch.randn(batch, num_samples, generator=torch.Generator().manual_seed(0))
    build = minimal_hubert if peer == "minimal-hubert" else spidr
    model, loss, after = build(batch, num_frames(num_samples))
    trained = [parameter for name, parameter in model.named_parameters() if not name.startswith("teacher")]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            total = loss(model, waveform)
        total.backward()
        nn.utils.clip_grad_norm_(trained, 10.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        after()

    return step


def main() -> None:
    """Serves a peer to `take_turns`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--processor-time", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    clock = time.process_time if options.processor_time else time.perf_counter
    answer(step_of(options.peer, options.batch, options.seconds, options.precision), clock=clock)


if __name__ == "__main__":
    main()
