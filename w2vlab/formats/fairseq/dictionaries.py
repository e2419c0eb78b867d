"""fairseq's dictionaries of output units: `dict.ltr.txt`, or the symbols in a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from w2vlab.formats.fairseq.options import Stored
from w2vlab.utils.plain_data import read_text
from w2vlab.vocabulary import BLANK, Units, Vocabulary

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""The first entries of every dictionary; the blank of CTC is the first."""

NAMES = (BLANK, "<s>", "</s>", "<unk>")
"""The names of these entries in a vocabulary of ours; as transformers names them, whose padding is the blank."""

SPACE = "|"
"""How letters are separated into words."""

PHONES = "phn"
"""Name of the labels of phones, in fairseq's recipes and here."""

_MAX_UNITS = 100_000


def find_units(
    content: Mapping[str, Any], stored: Stored, num_units: int, source: Path, dictionary: str | Path | None = None
) -> Vocabulary:
    """Returns the units of a model fine-tuned by CTC, in the order of the rows of its head.

    They are in the file itself, or in `dict.ltr.txt` beside it; `ltr` is its option `labels`.

    Args:
        content: The file.
        stored: The options of the fine-tuning.
        num_units: Rows of the head.
        source: Path of the file.
        dictionary: Path of the dictionary; None looks in the file and beside it.

    Raises:
        ValueError: There is none, or it has another number of units.
    """
    labels = stored.resolve(stored.group("task").get("labels"))
    labels = labels if isinstance(labels, str) and re.fullmatch(r"[\w-]{1,20}", labels) else "ltr"
    name = f"dict.{labels}.txt"
    tried: list[str] = []
    for symbols, place in _candidates(content, name, source, dictionary):
        if len(symbols) == num_units and tuple(symbols[: len(SPECIAL)]) == SPECIAL:
            if not str(place).startswith(str(source)):
                stored.notes.append(f"The units are those of {place}.")
            return _vocabulary(symbols, labels)
        tried.append(f"{place} has {len(symbols)}")
    found = f" ({'; '.join(tried)})" if tried else ""
    raise ValueError(
        f"{source} must have the dictionary of its {num_units} units, four special ones included, but there is "
        f"none{found}. Put the {name} of its training beside it, or give its path as the option `dictionary`."
    )


def read_dictionary(path: Path) -> list[str]:
    """Returns the units of a file with a unit and its count in each line, after the special ones.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a dictionary.
    """
    symbols = list(SPECIAL)
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        symbol, _, count = line.rstrip().rpartition(" ")
        if count == "#fairseq:overwrite":
            symbol, _, count = symbol.rpartition(" ")
        if not symbol or not count.isdecimal() or len(symbols) > _MAX_UNITS:
            raise ValueError(f"{path} must have a unit and its count in each line, but line {number} has not.")
        symbols.append(symbol)
    return symbols


def symbols_of(vocabulary: Vocabulary) -> list[str]:
    """Returns the symbols of a dictionary for a vocabulary that begins with `NAMES`."""
    space = SPACE if vocabulary.units == "characters" else " "
    return [*SPECIAL, *(space if unit == " " else unit for unit in vocabulary.entries[len(NAMES) :])]


def format_dictionary(symbols: Sequence[str]) -> str:
    """Returns the text of a dictionary; its counts, which only order it, are placeholders."""
    units = symbols[len(SPECIAL) :]
    return "".join(f"{unit} {len(units) - number}\n" for number, unit in enumerate(units))


def _candidates(
    content: Mapping[str, Any], name: str, source: Path, dictionary: str | Path | None
) -> Iterator[tuple[list[str], object]]:
    if dictionary is not None:
        yield read_dictionary(Path(dictionary)), dictionary
        return
    state = content.get("task_state")
    target = state.get("target_dictionary") if isinstance(state, Mapping) else None
    symbols = target.get("symbols") if isinstance(target, Mapping) else None
    if isinstance(symbols, list) and all(isinstance(symbol, str) for symbol in symbols):
        yield symbols, f"{source}, `task_state`"
    path = source.parent / name  # not in folders that the file names, because it may come from anybody
    if path.is_file():
        yield read_dictionary(path), path


def _vocabulary(symbols: Sequence[str], labels: str) -> Vocabulary:
    letters = symbols[len(SPECIAL) :]
    units: Units = "characters" if labels != PHONES and all(len(symbol) == 1 for symbol in letters) else "phones"
    if units == "characters":
        letters = [" " if symbol == SPACE else symbol for symbol in letters]
    return Vocabulary(units, (*NAMES, *letters))
