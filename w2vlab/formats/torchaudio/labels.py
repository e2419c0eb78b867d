"""The units of a model that torchaudio has fine-tuned by CTC."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from w2vlab.formats.published import HEAD, LazyWeights, Origin
from w2vlab.vocabulary import BLANK, Units, Vocabulary

_BLANKS = (BLANK, "<pad>", "[PAD]")
"""Labels that are the blank wherever they are, unless the first label is one of `_FIRST_BLANKS`."""

_FIRST_BLANKS = (*_BLANKS, "-", "<s>")
"""Labels that are the blank if they are the first one: those of the pipelines of torchaudio, and of fairseq."""

_FAIRSEQ_SPECIALS = ("<pad>", "</s>", "<unk>")
"""Rows 1 to 3 of the published files, which the pipelines of torchaudio remove, and which have no label there."""

WORD_BOUNDARY = "|"
"""The label of the space between words."""


def vocabulary_of(
    labels: Sequence[str], weights: LazyWeights, num_rows: int, origin: Origin, units: Units | None = None
) -> tuple[LazyWeights, Vocabulary | None]:
    """Returns the vocabulary, and the weights with the rows of the head in its order.

    Args:
        labels: One for each row of the head; empty to drop the head.
        weights: Weights by our names.
        num_rows: Rows of the head.
        origin: Gets the labels and notes; changed in place.
        units: What the labels are, if the file beside says so.

    Raises:
        ValueError: There are not as many labels as rows, or one is there twice.
    """
    if not labels:
        origin.notes.append("The last layer, `aux`, was left out, because `labels` is empty.")
        return LazyWeights({name: _reader(weights, name) for name in weights if name not in HEAD}), None
    labels = list(labels)
    if len(labels) == num_rows - len(_FAIRSEQ_SPECIALS) and not set(labels) & set(_FAIRSEQ_SPECIALS):
        labels[1:1] = _FAIRSEQ_SPECIALS
        origin.notes.append("Rows 1 to 3 of `aux` are taken to be <pad>, </s> and <unk>, as in published files.")
    if len(labels) != num_rows:
        raise ValueError(
            f"`labels` must have {num_rows} entries, one for each row of `aux.weight`, but has {len(labels)}."
        )
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"`labels` must differ from each other, but {twice[0]!r} is there more than once.")
    origin.options["labels"] = labels
    vocabulary, rows = arranged(labels, units)
    return (weights if rows == sorted(rows) else _reordered(weights, rows)), vocabulary


def arranged(labels: Sequence[str], kind: Units | None = None) -> tuple[Vocabulary, list[int]]:
    """Returns the vocabulary of labels, and the row of each of its entries.

    Args:
        labels: One for each row.
        kind: What they are; None decides by their lengths.
    """
    candidates = () if labels[0] in _FIRST_BLANKS else (label for label in labels if label in _BLANKS)
    blank = labels.index(next(iter(candidates), labels[0]))
    rows = [blank, *(row for row in range(len(labels)) if row != blank)]
    units = [labels[row] for row in rows[1:]]
    if kind == "phones" or (kind is None and any(len(unit) > 1 and not _is_special(unit) for unit in units)):
        return Vocabulary("phones", (BLANK, *units)), rows
    names = {} if " " in units else {WORD_BOUNDARY: " "}
    names |= {unit: f"<{unit[1:-1]}>".lower() for unit in units if len(unit) > 1}
    entries = [names.get(unit, unit) for unit in units]
    return Vocabulary("characters", (BLANK, *(entries if len(set(entries)) == len(units) else units))), rows


def _is_special(unit: str) -> bool:
    return (unit[0], unit[-1]) in (("<", ">"), ("[", "]"))


def _reordered(weights: Mapping[str, Tensor], order: list[int]) -> LazyWeights:
    rows = torch.tensor(order)
    readers: dict[str, Callable[[], Tensor]] = {name: _reader(weights, name) for name in weights}
    for name in HEAD:
        readers[name] = _row_reader(weights, name, rows)
    return LazyWeights(readers)


def _reader(weights: Mapping[str, Tensor], name: str) -> Callable[[], Tensor]:
    return lambda: weights[name]


def _row_reader(weights: Mapping[str, Tensor], name: str, rows: Tensor) -> Callable[[], Tensor]:
    return lambda: weights[name][rows]
