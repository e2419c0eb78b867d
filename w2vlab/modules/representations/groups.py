"""Which utterances of a batch are computed together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from w2vlab.types import SAMPLE_RATE

SAMPLES_ON_CPU = 4 * SAMPLE_RATE
"""Audio of utterances that a CPU computes together: more is not faster, and takes more memory."""

SAMPLES_ON_GPU = 300 * SAMPLE_RATE
"""The same for a GPU, including padding."""


def groups_of_utterances(lengths: Sequence[int], pad: bool) -> Iterator[list[int]]:
    """Yields the rows of utterances that are computed together, shortest first.

    Args:
        lengths: Samples of each utterance.
        pad: Utterances of different lengths are padded to the longest one, as a GPU needs it. On a CPU, padding costs
            as much as audio, so that only utterances of the same length are computed together.
    """
    limit = SAMPLES_ON_GPU if pad else SAMPLES_ON_CPU
    group: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        length = lengths[row]
        if group and ((len(group) + 1) * length > limit or (not pad and lengths[group[0]] != length)):
            yield group
            group = []
        group.append(row)
    yield group
