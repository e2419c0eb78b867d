from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from w2vlab.extraction import statistics
from w2vlab.extraction.statistics import CodeStatistics, statistics_table
from w2vlab.functional.measures.code_statistics import joint_perplexity, mean_run_length
from w2vlab.functional.measures.units import bit_rate, joint_codes

FRAMES_PER_SECOND = 50.0


def sequences(num_codebooks: int, seed: int = 0) -> list[np.ndarray]:
    """Returns the codes of utterances, with repeats; the last code of one is the first of the next."""
    draw = np.random.default_rng(seed)
    lengths = (7, 1, 0, 40, 3)
    found = [np.repeat(draw.integers(0, 5, (length, num_codebooks)), 2, axis=0)[:length] for length in lengths]
    found[1][0] = found[0][-1]
    return [codes.astype(np.int16) for codes in found]


@pytest.mark.parametrize("num_codebooks", [1, 2, 3])
def test_agrees_with_the_measures_of_evaluations(num_codebooks: int) -> None:
    found = sequences(num_codebooks)
    result = CodeStatistics.of(found, num_codebooks, 6).as_dict(FRAMES_PER_SECOND)
    tensors = [torch.from_numpy(codes).long() for codes in found]
    joint, _ = joint_codes(tensors)
    bits = bit_rate(joint, FRAMES_PER_SECOND)
    assert result["bits_per_second"]["frames"] == pytest.approx(bits.frames)
    assert result["bits_per_second"]["runs"] == pytest.approx(bits.runs)
    assert result["joint"]["perplexity"] == pytest.approx(joint_perplexity(tensors))
    assert result["joint"]["mean_run_frames"] == pytest.approx(mean_run_length([j[:, None] for j in joint])[0])
    assert [book["mean_run_frames"] for book in result["codebooks"]] == pytest.approx(mean_run_length(tensors))
    for group, book in enumerate(result["codebooks"]):
        used, counts = np.unique(np.concatenate(found)[:, group], return_counts=True)
        shares = counts / counts.sum()
        assert (book["entries"], book["used"]) == (6, len(used))
        assert book["bits_per_frame"] == pytest.approx(-sum(shares * np.log2(shares)))
        assert book["perplexity"] == pytest.approx(math.prod(shares**-shares))
        same = sum(int((codes[1:, group] == codes[:-1, group]).sum()) for codes in found)
        assert book["repeats"] == pytest.approx(same / 51)
    assert (result["utterances"], result["frames"], result["seconds"]) == (5, 51, 51 / 50)


def test_shards_add_up_to_the_whole_also_from_their_records() -> None:
    found = sequences(2) + sequences(2, seed=1)
    whole = CodeStatistics.of(found, 2, 6)
    shards = [CodeStatistics.of(part, 2, 6) for part in (found[:2], found[2:3], [], found[3:])]
    kept = [CodeStatistics.from_plain(json.loads(json.dumps(shard.as_plain()))) for shard in shards]
    for parts in (shards, kept, kept[::-1]):
        total = parts[0]
        for shard in parts[1:]:
            total = total + shard
        assert total.as_plain() == whole.as_plain()


def test_more_tuples_than_are_counted_leave_their_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sequences(2)
    expected = CodeStatistics.of(found, 2, 6).as_dict(FRAMES_PER_SECOND)
    distinct = expected["joint"]["used"]
    monkeypatch.setattr(statistics, "MAX_TUPLES", distinct - 1)
    shards = [CodeStatistics.of(part, 2, 6) for part in (found[:2], found[2:])]
    assert all(shard.tuples is not None for shard in shards)
    result = (shards[0] + shards[1]).as_dict(FRAMES_PER_SECOND)
    assert result["joint"]["used"] is None
    assert result["joint"]["repeats"] == expected["joint"]["repeats"]
    assert result["bits_per_second"] == {"frames": None, "runs": None}
    assert result["codebooks"] == expected["codebooks"]
    assert "many of 36" in statistics_table(result, "codes")


def test_the_table_of_two_codebooks() -> None:
    codes = np.array([[0, 0], [0, 0], [1, 0], [1, 1]], dtype=np.int16)
    table = statistics_table(CodeStatistics.of([codes], 2, 320).as_dict(FRAMES_PER_SECOND), "codes")
    lines = [line.split() for line in table.splitlines()]
    assert lines[1] == ["codebook", "1", "2", "of", "320", "2.0", "1.00", "50.0%", "2.00", "frames"]
    assert lines[2] == ["codebook", "2", "2", "of", "320", "1.8", "0.81", "50.0%", "2.00", "frames"]
    assert lines[3] == ["joint", "3", "of", "102,400", "2.8", "1.50", "25.0%", "1.33", "frames"]
    # 3 runs of 3 tuples in 0.08 s: 3 log2 3 / 0.08.
    assert "75.0 with a symbol a frame, 59.4 with a symbol a run" in table


@pytest.mark.parametrize("name", ["units", "codes"])
def test_one_codebook_has_one_row_and_nothing_is_not_a_number(name: str) -> None:
    found = CodeStatistics.of([np.zeros((3, 1), dtype=np.int16)], 1, 100).as_dict(FRAMES_PER_SECOND)
    table = statistics_table(found, name)
    assert len(table.splitlines()) == 3
    assert table.splitlines()[1].split() == [name, "1", "of", "100", "1.0", "0.00", "66.7%", "3.00", "frames"]
    empty = CodeStatistics.of([], 1, 100).as_dict(FRAMES_PER_SECOND)
    assert empty["bits_per_second"] == {"frames": None, "runs": None}
    assert "nan" not in statistics_table(empty, name)
