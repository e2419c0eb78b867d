"""What share each corpus of a mixture had in the runs of a report."""

from __future__ import annotations

from collections.abc import Iterable

from w2vlab.reports.grouping import Group
from w2vlab.utils.messages import one_line

_SHARE = "data/share/"

_MOST_CORPORA = 12


def notes_on_corpora(groups: Iterable[Group]) -> list[str]:
    """Returns a note for each group that was trained on a mixture: the measured shares of its corpora in the audio.

    Args:
        groups: The groups of the report; shares are means over the runs of a group.
    """
    notes = []
    for group in groups:
        shares: dict[str, list[float]] = {}
        for run in group.runs:
            last = run.train[-1] if run.train else {}
            for name, share in last.items():
                if name.startswith(_SHARE) and isinstance(share, int | float):
                    shares.setdefault(name.removeprefix(_SHARE), []).append(share)
        if shares:
            means = sorted(((sum(values) / len(values), name) for name, values in shares.items()), reverse=True)
            texts = [f"{name} {100 * mean:.1f} %" for mean, name in means[:_MOST_CORPORA]]
            more = [f"{len(means) - _MOST_CORPORA} more"] if len(means) > _MOST_CORPORA else []
            notes.append(one_line(f"{group.name}: audio by corpus: {', '.join([*texts, *more])}.", 1000))
    return notes
