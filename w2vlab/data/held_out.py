"""Which utterances an evaluation tests on, and how a pretraining leaves them out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from w2vlab.data.lines import read_lines
from w2vlab.data.splitting import held_out_position
from w2vlab.plain_data import read_json

TEST_FRACTION = 0.1
"""Share of the utterances of a corpus that an evaluation may test on."""

HASH = "hash"
"""The name of the rule by which a corpus is split unless a file says otherwise."""

FESTVOX_RU_TEST = "festvox-ru-test"
"""The name by which a pretraining leaves out what an evaluation on festvox-ru tests on."""


@dataclass(frozen=True)
class Split:
    """What a probe learns from, and what everything is measured on.

    Attributes:
        rule: What decided, for people to read.
        train: Ids to learn from, in order.
        test: Ids to measure on, in order; none of them is in `train`.
    """

    rule: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def is_held_out(utterance_id: str) -> bool:
    """Tells whether an evaluation may test on `utterance_id`: by its name alone, so adding files moves none."""
    return held_out_position(utterance_id) < TEST_FRACTION


def split_by_hash(ids: Iterable[str], num_train: int, num_test: int) -> Split:
    """Splits a corpus by hashes of its ids, not by the ones that choose what validates a pretraining.

    Ids are ordered by their hashes in [0, 1). The test has the first ones below `TEST_FRACTION`, what a probe learns
    from the first ones behind that. Where one side would be empty, as in a corpus of a few utterances, it gets one.

    Args:
        ids: Of all utterances.
        num_train: Most utterances to learn from.
        num_test: Most utterances to measure on.

    Raises:
        ValueError: There are not two utterances.
    """
    ordered = sorted(ids, key=held_out_position)
    if len(ordered) < 2:
        raise ValueError(f"`corpus` must have at least 2 usable utterances to test on some, but has {len(ordered)}.")
    limit = min(max(1, sum(map(is_held_out, ordered))), len(ordered) - 1)
    test, train = ordered[:limit][:num_test], ordered[limit:][:num_train]
    return Split(HASH, tuple(train), tuple(test))


def read_split(path: Path, ids: Iterable[str]) -> Split:
    """Reads a split from a JSON file with the lists `train` and `test`, as `w2vlab evaluate` leaves one.

    Raises:
        ValueError: It is none, or does not fit the utterances of the corpus.
    """
    try:
        content = read_json(path)
        train, test = tuple(content["train"]), tuple(content["test"])
        if not all(isinstance(name, str) for name in (*train, *test)):
            raise ValueError("the ids of utterances must be text")
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ValueError(
            f"`split` must be {HASH} or a JSON file with the lists `train` and `test`, but {path} is not "
            f"({type(problem).__name__}: {problem})."
        ) from None
    unknown = sorted({*train, *test} - set(ids))
    if unknown:
        raise ValueError(f"`split` must name utterances of the corpus, but {len(unknown)} are not: {unknown[0]}, …")
    if not train or not test or {*train} & {*test}:
        raise ValueError(f"`split` must name utterances in both lists, and none in both, but {path} does not.")
    return Split(str(path), train, test)


def exclusion(exclude: str | None) -> Callable[[str], bool] | None:
    """Returns what tells by an id whether a pretraining leaves the utterance out; None where it leaves none out.

    Args:
        exclude: `festvox-ru-test`, or a file with one id a line, or None for nothing.

    Raises:
        ValueError: There is no such file.
    """
    if exclude is None:
        return None
    if exclude == FESTVOX_RU_TEST:
        return _is_festvox_ru_test
    path = Path(exclude).expanduser()
    if not path.is_file():
        raise ValueError(f"`exclude` must be {FESTVOX_RU_TEST} or a file with an id a line, but is {exclude!r}.")
    ids = {line.strip() for line in read_lines(path) if line.strip()}
    return ids.__contains__


def _is_festvox_ru_test(utterance_id: str) -> bool:
    name = Path(utterance_id).name
    return re.fullmatch(r"ru_\d{4}\.wav", name) is not None and is_held_out(name)
