"""The training steps that the GPU benchmark compares: ours and transformers'."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from benchmarks.peers import transformers_inputs
from w2vlab.callbacks.compile import InductorWithFallback
from w2vlab.modules import MaskedPrediction
from w2vlab.modules.non_finite import skip_unless
from w2vlab.modules.sums import Sums, masked_share, metric_sums
from w2vlab.types import AudioBatch, Mask, RandomAddress


@dataclass
class Contender:
    """What is measured.

    Attributes:
        name: Its name in the table.
        model: The model.
        optimizer: Its optimizer.
        compiler: What compiles its regions; None if they are not compiled.
        step: One update; returns the number of targets.
        targets: Those of every update since `begin`.
        peak_bytes: Most memory that it took at a time; None where nobody can say.
    """

    name: str
    model: Any
    optimizer: Optimizer
    compiler: InductorWithFallback | None = None
    step: Callable[[], int] | None = None
    targets: list[int] = field(default_factory=list)
    peak_bytes: int | None = None

    def begin(self, step: Callable[[], int]) -> None:
        """From now on an update is `step`, on other batches than before."""
        self.step, self.targets, self.peak_bytes = step, [], None

    def __call__(self) -> None:
        """Does an update."""
        assert self.step is not None, "`begin` was called"
        self.targets.append(self.step())

    @property
    def resident_bytes(self) -> int:
        """What it takes between two updates: parameters, buffers, gradients, and the state of the optimizer."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        tensors += [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        tensors += [value for state in self.optimizer.state.values() for value in state.values()]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True)


def autocast(dtype: torch.dtype, device: torch.device) -> Any:
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def ours(
    model: MaskedPrediction, batches: Sequence[AudioBatch], dtype: torch.dtype, optimizer: Optimizer | None = None
) -> Callable[[], int]:
    """Returns an update of our model, as the trainer does it, on each of the batches in turn."""
    device = batches[0].waveform.device
    optimizer = optimizer or adamw(model)
    updates, turns = itertools.count(), itertools.cycle(_with_draws(model, batches))

    def step() -> int:
        update, (batch, address, mask) = next(updates), next(turns)
        torch.manual_seed(update)
        model.set_update(update)
        with autocast(dtype, device):
            output = model(batch, address, mask)
            terms = model.objective_terms(output)
            torch.stack(list(terms.values())).sum().backward()
        with torch.no_grad():
            Sums(device).add({**metric_sums(output, terms, model.quantizer.codebook_size), **masked_share(output)})
        targets = sum(output.prediction.num_predictions)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        torch._foreach_mul_(gradients, 1 / targets)
        skip_unless(torch.nn.utils.get_total_norm(gradients).isfinite(), optimizer)
        optimizer.step()
        optimizer.zero_grad()
        return targets

    return step


def _with_draws(
    model: MaskedPrediction, batches: Sequence[AudioBatch]
) -> list[tuple[AudioBatch, RandomAddress, Mask | None]]:
    """Returns each batch with a few draws in turn, which data workers make; without, if the model draws itself."""
    make_drawer = getattr(model, "make_drawer", None)
    drawer = None if make_drawer is None else make_drawer()
    found: list[tuple[AudioBatch, RandomAddress, Mask | None]] = []
    for update, batch in itertools.product(range(4), batches):
        draws = None if drawer is None else drawer(batch, update)
        if draws is None:
            found.append((batch, RandomAddress(seed=1, update=update, ids=batch.ids), None))
        else:
            moved = replace(batch, **{"draws": draws}).to(batch.waveform.device)
            found.append((moved, draws.address, moved.draws.mask))  # type: ignore[attr-defined]
    return found


def theirs(model: Any, waveform: Tensor, dtype: torch.dtype, optimizer: Optimizer | None = None) -> Callable[[], int]:
    """Returns an update of transformers' model, with a few masks in turn that were drawn beforehand."""
    device, optimizer = waveform.device, optimizer or adamw(model)
    drawn = [transformers_inputs(model, waveform) for _ in range(4)]
    counts = [int(inputs["mask_time_indices"].sum()) for inputs in drawn]
    turns = itertools.cycle(zip([{k: v.to(device) for k, v in i.items()} for i in drawn], counts, strict=True))

    def step() -> int:
        inputs, targets = next(turns)
        with autocast(dtype, device):
            loss = model(**inputs).loss / inputs["mask_time_indices"].sum()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return targets

    return step


def varied(batch: AudioBatch, count: int, padded: bool = True) -> list[AudioBatch]:
    """Returns batches of other sizes and lengths, every second one with padding if some are to be `padded`."""
    found = []
    for number in range(count):
        rows = max(2, len(batch) - number % 3)
        samples = int(batch.num_samples[0] * (1 - 0.05 * (number // 2)))
        shorter = 0.04 * (number % 2) * padded
        lengths = tuple(int(samples * (1 - shorter * row)) for row in range(rows))
        waveform = batch.waveform[:1, :samples].repeat(rows, 1)
        for row, length in enumerate(lengths):
            waveform[row, length:] = 0
        ids = tuple(f"varied-{number}-{row}" for row in range(rows))
        found.append(AudioBatch(waveform=waveform, num_samples=lengths, ids=ids))
    return found
