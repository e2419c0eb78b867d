"""Test utterances of evaluations, and their exclusion from pretraining."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from w2vlab.data.corpora.splitting import held_out_position
from w2vlab.data.labels.lines import read_lines
from w2vlab.utils.plain_data import read_json

TEST_FRACTION = 0.1
"""Fraction of the utterances of a corpus that may be test utterances."""

HASH = "hash"
"""Name of the default rule that splits a corpus, by hashes of the ids."""

FESTVOX_RU_TEST = "festvox-ru-test"
"""Value of `data.exclude` for the test utterances of festvox-ru."""


@dataclass(frozen=True)
class EvaluationSplit:
    """Training and test utterances of an evaluation.

    Attributes:
        rule: `hash`, or the path of the file that the split was read from.
        train: Ids of the utterances that probes are trained on.
        test: Ids of the test utterances; none of them is in `train`.
    """

    rule: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def is_held_out(utterance_id: str) -> bool:
    """Returns whether `utterance_id` may be a test utterance; depends on the id alone, so new files change no other."""
    return held_out_position(utterance_id) < TEST_FRACTION


def split_by_hash(ids: Iterable[str], num_train: int, num_test: int) -> EvaluationSplit:
    """Splits a corpus by hashes of its ids; these hashes are independent of those of the validation split.

    Ids are ordered by their hashes in [0, 1). Test utterances are the first ones below `TEST_FRACTION`, training
    utterances the first ones after it. If one side would be empty, as in a corpus of a few utterances, it gets one.

    Args:
        ids: Ids of all utterances.
        num_train: Maximum number of training utterances.
        num_test: Maximum number of test utterances.

    Raises:
        ValueError: There are fewer than two utterances.
    """
    ordered = sorted(ids, key=held_out_position)
    if len(ordered) < 2:
        raise ValueError(f"`corpus` must have at least 2 usable utterances to test on some, but has {len(ordered)}.")
    limit = min(max(1, sum(map(is_held_out, ordered))), len(ordered) - 1)
    test, train = ordered[:limit][:num_test], ordered[limit:][:num_train]
    return EvaluationSplit(HASH, tuple(train), tuple(test))


def read_split(path: Path, ids: Iterable[str]) -> EvaluationSplit:
    """Reads a split from a JSON file with the lists `train` and `test`, such as `split.json` of `w2vlab evaluate`.

    Args:
        path: The file.
        ids: Ids of all utterances of the corpus.

    Raises:
        ValueError: The file is malformed, or does not fit the utterances of the corpus.
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
    return EvaluationSplit(str(path), train, test)


def make_exclusion_filter(exclude: str | None) -> Callable[[str], bool] | None:
    """Returns a function that is True for the ids of utterances to exclude from pretraining.

    Args:
        exclude: `festvox-ru-test`, or a file with one id per line, or None.

    Returns:
        None if `exclude` is None.

    Raises:
        ValueError: The file does not exist.
    """
    if exclude is None:
        return None
    if exclude == FESTVOX_RU_TEST:
        return _is_festvox_ru_test
    path = Path(exclude).expanduser()
    if not path.is_file():
        raise ValueError(f"`exclude` must be {FESTVOX_RU_TEST} or a file with one id per line, but is {exclude!r}.")
    ids = {line.strip() for line in read_lines(path) if line.strip()}
    return ids.__contains__


def _is_festvox_ru_test(utterance_id: str) -> bool:
    name = Path(utterance_id).name
    return re.fullmatch(r"ru_\d{4}\.wav", name) is not None and is_held_out(name)
