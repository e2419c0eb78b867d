"""Transcripts to numbers and back."""

from __future__ import annotations

import json

import pytest

from w2vlab.vocabulary import BLANK, Vocabulary


@pytest.mark.parametrize(
    ("units", "transcripts", "entries"),
    [
        ("characters", ["да нет", "не та"], (BLANK, " ", "а", "д", "е", "н", "т")),  # noqa: RUF001
        ("phones", ["n j ee t", "d aa"], (BLANK, "aa", "d", "ee", "j", "n", "t")),
    ],
)
def test_round_trip(units: str, transcripts: list[str], entries: tuple[str, ...]) -> None:
    vocabulary = Vocabulary.of(units, transcripts)
    assert vocabulary.entries == entries
    assert len(vocabulary) == len(entries)
    for transcript in transcripts:
        numbers = vocabulary.encode(transcript)
        assert 0 not in numbers, "the blank is not a unit"
        assert vocabulary.decode(numbers) == transcript
    assert Vocabulary.of(units, reversed(transcripts)) == vocabulary
    assert Vocabulary.from_dict(json.loads(json.dumps(vocabulary.as_dict()))) == vocabulary


def test_units_that_are_no_entry_are_left_out() -> None:
    vocabulary = Vocabulary.of("characters", ["ab"])
    assert vocabulary.encode("a-b") == vocabulary.encode("ab")
    assert vocabulary.unknown("a-b c") == {"-", " ", "c"}


def test_decoded_words_have_one_space_between_them() -> None:
    vocabulary = Vocabulary.of("characters", ["a b"])
    assert vocabulary.decode([1, 2, 1, 1, 3, 1]) == "a b"


@pytest.mark.parametrize("transcripts", [[], ["", " "]])
def test_a_vocabulary_has_a_unit(transcripts: list[str]) -> None:
    with pytest.raises(ValueError, match="must have at least one of the `units` characters"):
        Vocabulary.of("characters", transcripts)


@pytest.mark.parametrize("plain", [None, [], {}, {"units": "characters", "entries": "ab"}, {"entries": [1]}])
def test_what_is_read_must_be_a_vocabulary(plain: object) -> None:
    with pytest.raises(ValueError, match="A vocabulary must have `units` and a list of `entries`"):
        Vocabulary.from_dict(plain)


def test_special_symbols_of_other_projects_are_not_transcribed() -> None:
    """They stay entries, so that probabilities are those of the model."""
    vocabulary = Vocabulary("characters", (BLANK, "<s>", "<unk>", " ", "a", "<", ">"))
    assert vocabulary.decode([1, 4, 2, 3, 4, 5, 6]) == "a a<>"
    assert vocabulary.encode("a <unk>") == (4, 3, 5, 6), "a transcript has characters only"
    assert Vocabulary("phones", (BLANK, "<sil>", "a")).decode([1, 2]) == "<sil> a"
