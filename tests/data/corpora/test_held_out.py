"""The test set of evaluations, and its exclusion from pretraining."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.conftest import write_ramp
from w2vlab.data.corpora.held_out import is_held_out, make_exclusion_filter, read_split, split_by_hash
from w2vlab.data.corpora.splitting import position

IDS = [f"ru_{number:04}.wav" for number in range(1, 621)]


def test_the_split_is_fixed_and_disjoint() -> None:
    """With names of festvox-ru. If the split changes, earlier results cannot be compared with later ones."""
    split = split_by_hash(reversed(IDS), 150, 50)
    assert (len(split.train), len(split.test)) == (150, 50)
    assert not {*split.train} & {*split.test}
    assert all(map(is_held_out, split.test))
    assert not any(map(is_held_out, split.train))
    assert split.test[:3] == FIRST_TEST
    assert split.train[:3] == FIRST_TRAIN
    assert split.rule == "hash"


FIRST_TEST = ("ru_0389.wav", "ru_0422.wav", "ru_0302.wav")
FIRST_TRAIN = ("ru_0494.wav", "ru_0328.wav", "ru_0181.wav")


def test_new_files_do_not_change_the_split_of_others() -> None:
    few, many = split_by_hash(IDS[:300], 1000, 1000), split_by_hash(IDS, 1000, 1000)
    assert {*few.test} <= {*many.test}
    assert {*few.train} <= {*many.train}


def test_it_is_independent_of_the_validation_split() -> None:
    below = [name for name in IDS if is_held_out(name)]
    assert 40 <= len(below) <= 85
    assert 0.3 < sum(position(name) for name in below) / len(below) < 0.7


@pytest.mark.parametrize("size", [2, 3, 5])
def test_small_corpora_have_both_parts(size: int) -> None:
    split = split_by_hash([f"u{number}" for number in range(size)], 150, 50)
    assert split.test
    assert split.train
    assert len(split.test) + len(split.train) == size


def test_one_utterance_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="at least 2 usable utterances to test on some, but has 1"):
        split_by_hash(["u"], 1, 1)


def test_a_split_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["a", "b"], "test": ["c"]}))
    split = read_split(path, ["a", "b", "c", "d"])
    assert (split.train, split.test, split.rule) == (("a", "b"), ("c",), str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "`split` must be hash or a JSON file .* is not .FileNotFoundError"),
        ("{", "`split` must be hash or a JSON file .* is not .JSONDecodeError"),
        ("[" * 5000, "`split` must be hash or a JSON file .* is not .ValueError: it is nested deeper than 64 levels"),
        ('{"train": [["a"]], "test": [{}]}', "`split` must be hash or a JSON file .* ids of utterances must be text"),
        ('{"train": ["a"]}', "`split` must be hash or a JSON file .* is not .KeyError"),
        ('{"train": ["a"], "test": ["z"]}', "`split` must name utterances of the corpus, but 1 are not: z"),
        ('{"train": ["a"], "test": ["a"]}', "`split` must name utterances in both lists, and none in both"),
        ('{"train": [], "test": ["a"]}', "`split` must name utterances in both lists"),
    ],
)
def test_invalid_splits(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_split(path, ["a", "b"])


def test_the_named_exclusion_is_the_test_set() -> None:
    excluded = make_exclusion_filter("festvox-ru-test")
    split = split_by_hash(IDS, 1000, 1000)
    assert {name for name in IDS if excluded(name)} == {*split.test}
    assert all(excluded(f"wav/{name}") for name in split.test)
    assert not excluded("other.wav")
    assert make_exclusion_filter(None) is None


def test_missing_exclusion_file() -> None:
    with pytest.raises(
        ValueError, match=r"`exclude` must be festvox-ru-test or a file with one id per line, but is 'x'"
    ):
        make_exclusion_filter("x")


def test_excluded_utterances_are_neither_trained_on_nor_validated_on(corpus, ready_module, tmp_path: Path) -> None:
    names = sorted(path.relative_to(corpus).as_posix() for path in corpus.rglob("*.wav"))
    out = names[::4]
    (tmp_path / "out.txt").write_text("\n".join(out) + "\n")
    module = ready_module(corpus, exclude=str(tmp_path / "out.txt"), validation_fraction=0.3)
    train, validation = ({cut.id for cut in part} for part in (module._train, module._val))
    assert train | validation == {*names} - {*out}
    assert len(module._train) == len(train)
    assert f"{corpus}: 10 utterances of {tmp_path / 'out.txt'} excluded" in module.summary()
    whole = ready_module(corpus, validation_fraction=0.3)
    assert {cut.id for cut in whole._val} - {*out} == validation  # no utterance changes to the other part


def test_an_exclusion_without_effect_causes_a_warning(
    tmp_path: Path, ready_module, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(8):
        write_ramp(tmp_path / "c" / f"u{number}.wav", 0.4)
    ready_module(tmp_path / "c", exclude="festvox-ru-test")
    assert "`exclude` has no effect" in caplog.text
