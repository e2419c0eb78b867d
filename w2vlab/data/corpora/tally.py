"""Counts utterances by reason, with a few ids as examples."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_EXAMPLES = 3


@dataclass
class Tally:
    """Counts of utterances by reason; false if it is empty.

    Attributes:
        counts: Number of utterances of each reason.
        examples: The first few ids of each reason.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Counts `name` under `reason`."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(name)

    def include(self, other: Tally) -> None:
        """Counts what `other` has counted, after what this one has."""
        for reason, number in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + number
            examples = self.examples.setdefault(reason, [])
            examples.extend(other.examples[reason][: MAX_EXAMPLES - len(examples)])

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
            parts.append(f"{count} {reason} ({', '.join(examples)}{more})")
        return "; ".join(parts)
