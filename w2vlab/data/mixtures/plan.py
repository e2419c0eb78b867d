"""How often an epoch uses each corpus of a mixture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from w2vlab.data.mixtures.sources import CorpusSource
from w2vlab.utils.messages import count, duration


@dataclass(frozen=True)
class CorpusPlan:
    """The part of a corpus in an epoch.

    Attributes:
        name: Name of the corpus.
        num_utterances: Its utterances to train on.
        hours: Their audio, each cropped to the longest window.
        uses: How many times an epoch uses it.
        share: Its share of the audio of an epoch, in [0, 1].
    """

    name: str
    num_utterances: int
    hours: float
    uses: float
    share: float

    def __str__(self) -> str:
        size = f"{count(self.num_utterances, 'utterance')}, {duration(3600 * self.hours)}"
        uses = "once" if f"{self.uses:.3g}" == "1" else f"{self.uses:.3g} times"
        return f"{self.name}: {size}, used {uses} an epoch, {100 * self.share:.3g} % of its audio"


def plan_uses(
    hours: Sequence[float], sources: Sequence[CorpusSource], alpha: float, max_uses: float | None = None
) -> list[float]:
    """Computes how many times an epoch uses each corpus.

    The share of corpus c is proportional to `weight_c * min(hours_c, max_hours_c) ** alpha`. An epoch has as much audio
    as all corpora together, of each at most `max_hours`. What corpora would have above `max_uses` goes to the others,
    in proportion to their shares.

    Args:
        hours: Audio of each corpus, each utterance cropped to the longest window.
        sources: The corpora.
        alpha: The exponent: 1 for the corpora as they are, 0 for equal shares.
        max_uses: Most times that an epoch uses a corpus; None for no limit. Below 1, an epoch is shorter.

    Reference:
        Babu et al. 2021 (XLS-R), arXiv:2111.09296, Section 3: alpha = 0.5. Limiting the uses is that of Chung et al.
        2023 (UniMax), arXiv:2304.09151.
    """
    limits = [math.inf if source.options.max_hours is None else source.options.max_hours for source in sources]
    counted = [min(some, limit) for some, limit in zip(hours, limits, strict=True)]
    # Both are relative to the largest, so that neither a power nor a sum overflows, and they are not all 0.
    most, heaviest = max(counted), max(source.options.weight for source in sources)
    wanted = [
        source.options.weight / heaviest * (some / most) ** alpha for source, some in zip(sources, counted, strict=True)
    ]
    uses = [0.0] * len(hours)
    free, left = list(range(len(hours))), sum(counted)
    while free:
        total = sum(wanted[corpus] for corpus in free)
        if not total:  # shares too small for a number: they stay without uses
            break
        for corpus in free:
            uses[corpus] = wanted[corpus] / hours[corpus] * (left / total)
        over = [corpus for corpus in free if max_uses is not None and uses[corpus] > max_uses]
        if not over or max_uses is None:
            break
        for corpus in over:
            uses[corpus] = max_uses
            left -= max_uses * hours[corpus]
        free = [corpus for corpus in free if corpus not in over]
    return [float(f"{some:.9g}") for some in uses]  # so that rounding errors do not add or drop an utterance


def describe_plan(
    names: Sequence[str], num_utterances: Sequence[int], hours: Sequence[float], uses: Sequence[float]
) -> tuple[CorpusPlan, ...]:
    """Returns the plan of each corpus.

    Args:
        names: Names of the corpora.
        num_utterances: Their utterances to train on.
        hours: Their audio.
        uses: How many times an epoch uses each.
    """
    total = sum(some * used for some, used in zip(hours, uses, strict=True))
    return tuple(
        CorpusPlan(name, number, some, used, some * used / total)
        for name, number, some, used in zip(names, num_utterances, hours, uses, strict=True)
    )
