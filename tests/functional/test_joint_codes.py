"""One vocabulary for the codes of several codebooks: a dictionary as fairseq makes it."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from w2vlab.functional.joint_codes import JointCodes

CODES = np.random.default_rng(0).integers(4, size=(400, 3)) * (np.random.default_rng(1).random((400, 3)) < 0.4)


def counted(size: int) -> JointCodes:
    joint = JointCodes(3, 4, size)
    joint.entries_of(CODES, lambda: CODES)
    return joint


def never() -> np.ndarray:
    raise AssertionError("counted already")


@pytest.mark.parametrize("size", [5, 64, 100])
def test_the_most_frequent_combinations_come_first_and_the_others_share_the_last_entry(size: int) -> None:
    words = Counter(map(tuple, CODES.tolist()))
    ordered = sorted(words, key=lambda word: (-words[word], word))[:size]
    index = {word: number for number, word in enumerate(ordered)}
    assert len(words) < 64
    entries = counted(size).entries_of(CODES.reshape(20, 20, 3), never)
    expected = [index.get(tuple(word), size) for word in CODES.tolist()]
    assert entries.shape == (20, 20, 1)
    assert entries.ravel().tolist() == expected
    unseen = next(word for word in np.ndindex(4, 4, 4) if word not in words)
    assert counted(size).entries_of(np.array([unseen]), never).item() == size


def test_it_is_saved_and_not_counted_again() -> None:
    joint, other = counted(30), JointCodes(3, 4, 30)
    other.entries_of(CODES[:9], lambda: CODES[:9])  # of another file
    other.load_state_dict(joint.state_dict())
    for same in (other, copy.deepcopy(joint), pickle.loads(pickle.dumps(joint))):
        assert np.array_equal(same.entries_of(CODES, never), joint.entries_of(CODES, never))
    assert JointCodes(3, 4, 30).state_dict().keys() == {"combinations"}
    assert (JointCodes(3, 4, 30).combinations == -1).all()
    assert torch.equal(joint.combinations, counted(30).combinations)


def test_invented_codes_are_entries() -> None:
    entries = JointCodes(3, 4, 30).invented(CODES)
    assert entries.shape == (400, 1)
    assert ((entries >= 0) & (entries <= 30)).all()


def test_more_combinations_than_can_be_counted_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`joint_size` must be 0 .* 16,777,216 combinations .* but is 9 for"):
        JointCodes(3, 320, 9)
