"""Distractors from several sources at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from w2vlab.interfaces import NegativeSampler, NegativeSamplerFactory
from w2vlab.negatives.other_utterances import OtherUtterancesNegatives
from w2vlab.negatives.same_utterance import SameUtteranceNegatives
from w2vlab.types import LossInputs, Negatives, RandomAddress, TargetSpec


class CombinedNegatives(NegativeSampler):
    """Draws distractors with several samplers; K is the sum of theirs.

    The draws of one sampler do not change those of another.

    Args:
        targets: What the targets are; supplied by the loss, not by YAML.
        samplers: Builds each sampler. None draws 50 from the same utterance and 50 from the others of the micro-batch.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Table 13.
    """

    def __init__(self, targets: TargetSpec, samplers: list[NegativeSamplerFactory] | None = None) -> None:
        super().__init__()
        if samplers is None:
            samplers = [partial(cls, num_negatives=50) for cls in (SameUtteranceNegatives, OtherUtterancesNegatives)]
        if not samplers:
            raise ValueError("`samplers` must be at least one sampler, but is an empty list.")
        built = [build(targets) for build in samplers]
        self.samplers = nn.ModuleList(built)
        self.num_negatives = sum(sampler.num_negatives for sampler in built)
        self.uses_every_frame = any(sampler.uses_every_frame for sampler in built)
        self._separate_draws()

    @property
    def utterances_are_independent(self) -> bool:
        """Whether that holds for all samplers."""
        return all(sampler.utterances_are_independent for sampler in cast(Iterable[NegativeSampler], self.samplers))

    def _separate_draws(self) -> None:
        """Gives samplers of the same purpose different random numbers."""
        times: Counter[str] = Counter()
        for sampler in self.modules():
            if isinstance(sampler, NegativeSampler) and not isinstance(sampler, CombinedNegatives):
                purpose = type(sampler).purpose
                times[purpose] += 1
                sampler.purpose = purpose if times[purpose] == 1 else f"{purpose} {times[purpose]}"

    def draw(
        self, num_targets: Sequence[int], num_frames: Sequence[int], positions: Tensor, address: RandomAddress
    ) -> dict[str, tuple[Tensor, ...]]:
        """Draws with each sampler that draws ahead."""
        samplers = cast(Iterable[NegativeSampler], self.samplers)
        drawn = (sampler.draw(num_targets, num_frames, positions, address) for sampler in samplers)
        return dict(chain.from_iterable(one.items() for one in drawn))

    def forward(self, inputs: LossInputs) -> Negatives:
        """Draws with each sampler and lays the distractors side by side, in the order of `samplers`."""
        drawn: list[Negatives] = [sampler(inputs) for sampler in self.samplers]
        num_frames = inputs.candidates.shape[1]
        indices: list[Tensor] = []
        vectors: list[Tensor] = []
        for one in drawn:
            before = sum(other.shape[1] for other in vectors)
            indices.append(one.indices + before * (one.indices >= num_frames) if before else one.indices)
            if one.vectors is not None:
                vectors.append(one.vectors)
        utterances = None
        if any(one.utterances is not None for one in drawn):
            rows = torch.arange(len(inputs.num_targets), device=inputs.context.device)[:, None, None]
            utterances = torch.cat(
                [rows.expand_as(one.indices) if one.utterances is None else one.utterances for one in drawn], dim=-1
            )
        return Negatives(
            indices=torch.cat(indices, dim=-1),
            utterances=utterances,
            vectors=torch.cat(vectors, dim=1) if vectors else None,
        )
