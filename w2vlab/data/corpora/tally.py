"""Counts utterances by reason, with a few ids as examples."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from w2vlab.utils.messages import count, one_line

if TYPE_CHECKING:  # processes that scan import no PyTorch
    from w2vlab.batch import Seconds

MAX_EXAMPLES = 3


@dataclass
class Tally:
    """Counts of utterances by reason; false if it is empty.

    Attributes:
        counts: Number of utterances of each reason.
        examples: The first few ids of each reason.
        names: Reason and id of all, in order; None if only examples are kept.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    names: list[tuple[str, str]] | None = field(default=None, compare=False, repr=False)

    def add(self, reason: str, name: str) -> None:
        """Counts `name` under `reason`."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES and name not in examples:
            examples.append(name)
        if self.names is not None:
            self.names.append((reason, name))

    def include(self, other: Tally) -> None:
        """Counts what `other` has counted, after what this one has."""
        for reason, number in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + number
            examples = self.examples.setdefault(reason, [])
            examples.extend(other.examples[reason][: MAX_EXAMPLES - len(examples)])
        if self.names is not None:
            self.names += other.names or []

    def as_lines(self) -> str:
        """Returns a line for each of `names`: reason, tab, id (quoted if it cannot be printed)."""
        lines = [(reason, name if name.isprintable() else repr(name)) for reason, name in self.names or ()]
        return "".join(f"{reason}\t{name}\n" for reason, name in lines)

    @property
    def total(self) -> int:
        """Number of utterances of all reasons."""
        return sum(self.counts.values())

    @property
    def is_at_a_power_of_two(self) -> bool:
        """Whether to log now: at 1, 2, 4, 8, … a failing disk is visible but does not fill the log."""
        return self.total & (self.total - 1) == 0

    def __add__(self, other: Tally) -> Tally:
        """Joins two tallies that have no reason in common."""
        return Tally({**self.counts, **other.counts}, {**self.examples, **other.examples})

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        parts = []
        for reason in sorted(self.counts):
            count, examples = self.counts[reason], self.examples[reason]
            more = ", …" if count > len(examples) else ""
            parts.append(f"{count} {reason} ({', '.join(map(one_line, examples))}{more})")
        return "; ".join(parts)


def remarks(corpus: str, left_out: Tally, notes: Tally, names: Path | None = None) -> list[str]:
    """Returns log lines on a corpus: one for the utterances left out and one for conversions, if there are any.

    Args:
        corpus: Its name.
        left_out: Utterances that were left out.
        notes: Utterances that are converted.
        names: File with all ids that the scan has left out.
    """
    in_file = "" if names is None or all(number <= MAX_EXAMPLES for number in left_out.counts.values()) else names
    more = f" (all that the scan left out are in {in_file})" if in_file else ""
    lines = [f"of {corpus}, left out {count(left_out.total, 'utterance')}: {left_out}{more}"] if left_out else []
    return [*lines, f"of {corpus}, {notes}"] if notes else lines


def windowing_advice(corpus: str, path: str, max_seconds: Seconds) -> str:
    """Returns a log line with a command that cuts long recordings into pieces, so that all of them are trained on.

    Args:
        corpus: The corpus, for the line.
        path: The corpus as typed.
        max_seconds: The longest window.
    """
    return (
        f"of {corpus}, an epoch uses less than a quarter: one window of `max_seconds` of each long recording. To use "
        f"all, cut the recordings: w2vlab prepare {shlex.quote(path)} pieces --max_seconds={max_seconds:g}, "
        "then --data.corpus=pieces"
    )
