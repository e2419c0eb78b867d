"""The vocabulary of transcripts: characters or phones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Units = Literal["characters", "phones"]

BLANK = "<blank>"
"""The blank of CTC; always the first entry."""


@dataclass(frozen=True)
class Vocabulary:
    """The output units of a recognition model.

    A transcript is a string: of characters, with one space between words, or of phones, with a space between each two.

    Attributes:
        units: Whether entries are characters or phones.
        entries: The blank, then the units in the order of their code points. A model of another project has its own
            order, and special symbols such as `<unk>`.
    """

    units: Units
    entries: tuple[str, ...]

    @classmethod
    def of(cls, units: Units, transcripts: Iterable[str]) -> Vocabulary:
        """Collects the units of `transcripts`.

        Raises:
            ValueError: There are no units in them.
        """
        found = {unit for transcript in transcripts for unit in split(transcript, units)}
        if not found - {" "}:
            raise ValueError(
                f"The vocabulary must have at least one of the `units` {units}, but the transcripts to train on are "
                "empty."
            )
        return cls(units, (BLANK, *sorted(found)))

    @classmethod
    def from_dict(cls, plain: Any) -> Vocabulary:
        """Returns the vocabulary that `as_dict` was called on.

        Raises:
            ValueError: `plain` is not a vocabulary.
        """
        entries = plain.get("entries") if isinstance(plain, dict) else None
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
            raise ValueError("A vocabulary must have `units` and a list of `entries`, but does not.")
        return cls(plain.get("units", ""), tuple(entries))

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data, for a checkpoint."""
        return {"units": self.units, "entries": list(self.entries)}

    def __len__(self) -> int:
        return len(self.entries)

    def encode(self, transcript: str) -> tuple[int, ...]:
        """Returns the indices of the units of `transcript`; units without an entry are skipped."""
        numbers = self._numbers
        return tuple(numbers[unit] for unit in split(transcript, self.units) if unit in numbers)

    def unknown(self, transcript: str) -> set[str]:
        """Returns the units of `transcript` without an entry."""
        return set(split(transcript, self.units)) - self._numbers.keys()

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {entry: number for number, entry in enumerate(self.entries)}

    def decode(self, numbers: Sequence[int]) -> str:
        """Returns the transcript of indices `numbers`, which have no blanks.

        Among characters, special symbols such as `<unk>`, which models of other projects have, are left out.
        """
        units = [self.entries[number] for number in numbers]
        if self.units == "phones":
            return " ".join(units)
        return " ".join("".join(unit for unit in units if not is_special(unit)).split())


def is_special(entry: str) -> bool:
    """Returns whether an entry of a vocabulary of characters is a symbol such as `<unk>`, which no transcript has."""
    return len(entry) > 1 and entry[0] == "<" and entry[-1] == ">"


def split(transcript: str, units: Units) -> list[str]:
    """Returns the units of `transcript`."""
    return list(transcript) if units == "characters" else transcript.split()
