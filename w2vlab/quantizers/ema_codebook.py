"""Codebooks that follow the latents by moving averages."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from w2vlab.functional.choices import check_choice
from w2vlab.functional.codebooks import nearest_entries, sum_by_code
from w2vlab.functional.precision import KeepsFloat32, at_least_float32
from w2vlab.interfaces import LearnsByStatistics, StepDependent
from w2vlab.utils.distributed import all_gather, all_reduce_sum

Start = Literal["latents", "random"]

KEY_CYCLES = 100.0
"""Periods of a candidate's key over a change of the latent's direction by one standard deviation."""

_NORM_EPS = 1e-5


class EMACodebook(KeepsFloat32, LearnsByStatistics, StepDependent):
    """G codebooks, each entry the moving average of the latents that chose it.

    Once an update, with n latents of sum m that chose an entry, on all processes and in all micro-batches:

        count <- decay * count + (1 - decay) * n        sum <- decay * sum + (1 - decay) * m        entry = sum / count

    An entry that too few latents choose is *revived*: it moves to a latent of the current update, with the moving count
    of the average entry. The first update initializes all entries this way; if there are fewer latents than entries,
    the rest stays random until the next update.

    The latents with the highest keys are used. A key is a pseudo-random function of the latent that changes with every
    update, so that it does not depend on the layout of the batch over processes and micro-batches. It is continuous,
    because the same latent differs by rounding between layouts.

    Args:
        num_codebooks: Codebooks G.
        codebook_size: Entries V of each codebook.
        dim: Width d of an entry.
        decay: Decay of the moving averages in an update.
        revive_below: An entry is revived if its moving count falls below this share of the average entry's; 0 for
            never.
        eps: Added to every count before it divides (Laplace smoothing); 0 for none, with `keep_unused`.
        start: Entries start at latents of the first update (`latents`), or at random vectors with a count of 1, of
            which each component has mean 0 and variance 1 over the entries of a codebook (`random`).
        keep_unused: Whether an entry that no latent of an update chose keeps its count and its sum, in place of their
            decay.
    """

    entries: Tensor
    counts: Tensor
    sums: Tensor
    initialized: Tensor

    def __init__(
        self,
        num_codebooks: int,
        codebook_size: int,
        dim: int,
        decay: float,
        revive_below: float,
        eps: float,
        start: Start = "latents",
        keep_unused: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be at least 0 and below 1, but is {decay}.")
        if not 0 <= revive_below < 1:
            raise ValueError(f"`revive_below` must be at least 0 and below 1, but is {revive_below}.")
        if eps < 0 or (eps == 0 and not keep_unused):
            raise ValueError(
                f"`eps` must be above 0, but is {eps}. With `keep_unused`, whose counts stay above 0, it can be 0."
            )
        check_choice("start", start, Start)
        self.decay = decay
        self.revive_below = revive_below
        self.eps = eps
        self.keep_unused = keep_unused
        self.revives = start == "latents" or revive_below > 0
        """Whether an entry can be moved to a latent, and not only to an average of latents."""
        shape = num_codebooks, codebook_size
        drawn = torch.randn(*shape, dim)
        if start == "random":
            variance, mean = torch.var_mean(drawn, dim=1, correction=0, keepdim=True)  # over the entries
            drawn = (drawn - mean) * torch.rsqrt(variance + _NORM_EPS)
        self.register_buffer("entries", drawn if start == "random" else 0.01 * drawn)
        self.register_buffer("counts", torch.full(shape, 1.0 if start == "random" else 0.0))
        self.register_buffer("sums", drawn.clone() if start == "random" else torch.zeros(*shape, dim))
        self.register_buffer("initialized", torch.full(shape, start == "random"))
        self._address = 0, 0
        # Statistics of this process since the last update; not buffers, because DDP would overwrite these with those of
        # the first process.
        self._counts: Tensor | None = None
        self._sums: Tensor | None = None
        self._candidates: Tensor | None = None

    def set_update(self, update: int, seed: int = 0) -> None:
        """Seeds the keys of the latents that may replace dead entries."""
        self._address = seed, update

    def scheduled_values(self, update: int) -> dict[str, float]:
        """Returns nothing, because only random draws depend on the update."""
        return {}

    def forward(self, vectors: Tensor, padding_mask: Tensor | None = None, ready: Tensor | None = None) -> Tensor:
        """Finds the nearest entries; in training, collects the statistics for `finish_update`.

        Args:
            vectors: Shape `(B, N, G, d)`.
            padding_mask: True on padding, shape `(B, N)`.
            ready: False, shape `()`, while entries must not be initialized with these vectors; None for true.

        Returns:
            Codes, shape `(B, N, G)`.
        """
        codes = nearest_entries(vectors, self.entries)
        if self.training:
            with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
                self._collect(at_least_float32(vectors), codes, padding_mask, ready)
        return codes

    def _collect(self, vectors: Tensor, codes: Tensor, padding_mask: Tensor | None, ready: Tensor | None) -> None:
        size = self.entries.shape[1]
        counts, sums = sum_by_code(vectors, codes, size, padding_mask)
        if self._counts is not None and self._sums is not None:
            counts, sums = self._counts + counts, self._sums + sums
        self._counts, self._sums = counts, sums
        if not self.revives:
            return
        keys = self._keys(vectors)  # (B, N, G)
        if padding_mask is not None:
            keys = keys.masked_fill(padding_mask[..., None], -math.inf)
        if ready is not None:
            keys = keys.masked_fill(~ready, -math.inf)
        candidates = torch.cat([vectors, keys[..., None]], dim=-1).flatten(0, 1).transpose(0, 1)  # (G, B * N, d + 1)
        if self._candidates is not None:
            candidates = torch.cat([self._candidates, candidates], dim=1)
        self._candidates = _highest_keys(candidates, size)

    def _keys(self, vectors: Tensor) -> Tensor:
        """Returns a key in [0, 1] for each of the vectors `(B, N, G, d)`, uniform over latents: `(B, N, G)`."""
        drawn = np.random.default_rng(self._address).standard_normal(self.entries.shape[::2], dtype=np.float32)
        direction = torch.from_numpy(drawn).to(vectors.device, vectors.dtype, non_blocking=True)  # (G, d)
        # From direction and logarithm of the length, so that keys are equally random for latents of any scale.
        length = vectors.norm(dim=-1).clamp(min=torch.finfo(vectors.dtype).tiny)
        phase = KEY_CYCLES * ((vectors * direction).sum(dim=-1) / length + length.log())
        keys: Tensor = (
            2 * (phase - phase.floor()) - 1
        ).abs()  # a triangle wave, because the fraction is not continuous
        return keys

    def finish_update(self, update: int, skipped: Tensor | None = None) -> None:
        """Updates the entries with the statistics of all processes since the last call.

        Args:
            update: Optimiser updates done before this one.
            skipped: True, shape `()`, if the update is skipped and must not change the entries; None for false.
        """
        if self._counts is None or self._sums is None:
            return  # in evaluation there are no statistics
        with torch.no_grad():
            counts, sums = all_reduce_sum(self._counts), all_reduce_sum(self._sums)
            candidates = None
            if self._candidates is not None:
                every = all_gather(self._candidates).transpose(0, 1).flatten(1, 2)  # (G, processes * V, d + 1)
                candidates = _highest_keys(every, self.entries.shape[1])
            before = [state.clone() for state in self._state()] if skipped is not None else []
            self._learn(counts, sums, candidates)
            if skipped is not None:
                for state, old in zip(self._state(), before, strict=True):
                    state.copy_(torch.where(skipped, old, state))
        self.forget_update()

    def forget_update(self) -> None:
        """Discards the statistics since the last update."""
        self._counts = self._sums = self._candidates = None

    def _state(self) -> tuple[Tensor, ...]:
        return self.entries, self.counts, self.sums, self.initialized

    def _learn(self, seen: Tensor, summed: Tensor, candidates: Tensor | None) -> None:
        """Computes an update from counts `(G, V)`, sums `(G, V, d)` and candidates `(G, V, d + 1)`, highest key first.

        It branches by `torch.where`, because an `if` would wait for the device. Without candidates no entry is revived.
        """
        size = seen.shape[1]
        # Statistics of an entry start when it is initialized; those of a random entry are discarded.
        counts = torch.where(self.initialized, self._average(self.counts, seen, seen), 0.0)
        sums = torch.where(self.initialized[..., None], self._average(self.sums, summed, seen[..., None]), 0.0)

        if candidates is not None:
            dead = ~self.initialized | (counts < self.revive_below * counts.mean(dim=1, keepdim=True))
            rank = (dead.cumsum(dim=1) - 1).clamp(min=0)  # the n-th dead entry gets the n-th candidate
            offered = candidates.gather(1, rank[..., None].expand_as(candidates))
            revived = dead & (offered[..., -1] >= 0)
            average = seen.sum(dim=1, keepdim=True) / size  # (G, 1)
            counts = torch.where(revived, average, counts)
            sums = torch.where(revived[..., None], average[..., None] * offered[..., :-1], sums)
            self.initialized |= revived

        total = counts.sum(dim=1, keepdim=True)
        # Smoothed counts have the same sum.
        smoothed = total * (counts + self.eps) / (total + size * self.eps) if self.eps else counts
        self.entries.copy_(torch.where(self.initialized[..., None], sums / smoothed[..., None], self.entries))
        self.counts.copy_(counts)
        self.sums.copy_(sums)

    def _average(self, old: Tensor, new: Tensor, seen: Tensor) -> Tensor:
        """Returns the moving average of `old` and `new`, which with `keep_unused` is `old` if `seen` is 0."""
        average = self.decay * old + (1 - self.decay) * new
        return torch.where(seen > 0, average, old) if self.keep_unused else average


def _highest_keys(candidates: Tensor, count: int) -> Tensor:
    """Keeps the `count` candidates of `(G, M, d + 1)` with the highest keys, which are their last component.

    They are sorted by key, highest first. If there are fewer, the rest is padded with keys of minus infinity.
    """
    missing = count - candidates.shape[1]
    if missing > 0:
        candidates = F.pad(candidates, (0, 0, 0, missing), value=-math.inf)
    best = candidates[..., -1].topk(count, dim=1).indices  # (G, count)
    return candidates.gather(1, best[..., None].expand(-1, -1, candidates.shape[-1]))
