"""The probe and the unit quality on a corpus with separable phones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from w2vlab.data.labels.alignments import Alignment
from w2vlab.evaluation.tasks.intervals import jackknife_probe
from w2vlab.evaluation.tasks.probe import Examples, phone_rows, run_probe
from w2vlab.evaluation.tasks.unit_quality import UnitData, frame_phones, measure_units
from w2vlab.frame_grid import FrameGrid

GRID = FrameGrid(320, 400)
ALIGNMENT = Alignment(("a", "b", "a"), np.array([0.0, 0.1, 0.3]), np.array([0.1, 0.3, 0.55]))


def test_phone_frames_are_in_the_middle_of_phones() -> None:
    rows = phone_rows(ALIGNMENT, ("a", "b"), GRID, 26)
    centres = GRID.centres(26)
    assert rows.frames.tolist() == [int(np.abs(centres - time).argmin()) for time in (0.05, 0.2, 0.425)]
    assert rows.labels.tolist() == [0, 1, 0]


def test_shifted_frames_are_after_their_phones_and_inside_the_labels() -> None:
    rows = phone_rows(ALIGNMENT, ("a", "b"), GRID, 26, shift=0.3)
    centres = GRID.centres(26)
    assert rows.frames.tolist() == [int(np.abs(centres - time).argmin()) for time in (0.35, 0.5)]  # 0.725 is too late
    assert rows.labels.tolist() == [0, 1]


def examples(ids: list[str], noise: float, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    made = Examples()
    for name in ids:
        labels = torch.randint(0, 3, (20,), generator=generator)
        clean = torch.nn.functional.one_hot(labels, 5).float()
        made.features[name] = clean + noise * torch.randn(20, 5, generator=generator)
        made.labels[name] = labels
    return made


def test_a_probe_learns_separable_phones_only() -> None:
    train, test = examples([f"a{n}" for n in range(20)], 0.1, 0), examples([f"b{n}" for n in range(5)], 0.1, 1)
    probe = run_probe(train, test, 3)
    assert probe.accuracy > 0.98
    assert probe.total == dict.fromkeys(test.features, 20)
    labels = torch.cat(list(test.labels.values()))
    frequent = torch.cat(list(train.labels.values())).bincount().argmax()
    assert probe.majority == pytest.approx((labels == frequent).float().mean().item())
    test.features = {name: torch.randn_like(rows) for name, rows in test.features.items()}
    assert run_probe(train, test, 3).accuracy < 0.6


def test_test_utterances_do_not_affect_the_penalty() -> None:
    train = examples([f"a{n}" for n in range(10)], 1.0, 0)
    one, other = (run_probe(train, examples(["b"], noise, 1), 3) for noise in (0.1, 5.0))
    assert one.penalty == other.penalty
    assert one.accuracy > other.accuracy


def test_phones_missing_in_training_are_errors() -> None:
    train, test = examples(["a", "b"], 0.1, 0), examples(["c"], 0.1, 1)
    test.labels["c"][:5] = 3
    assert run_probe(train, test, 4).correct["c"] <= 15


def test_phone_of_each_frame() -> None:
    phones = frame_phones(ALIGNMENT, ("a", "b"), GRID, 28)
    expected = [{0: 0, 1: 1, 2: 0, -1: -1}[int(n)] for n in ALIGNMENT.phone_indices(GRID.centres(28))]
    assert phones.tolist() == expected
    assert phones[-1] == -1  # after the last label


def unit_data(noise: float = 0.0, utterances: int = 6) -> UnitData:
    draw = np.random.default_rng(0)
    codes, phones = {}, {}
    for number in range(utterances):
        spoken = np.repeat(draw.integers(0, 4, 30), 3)
        code = np.where(draw.random(len(spoken)) < noise, draw.integers(0, 4, len(spoken)), spoken)
        codes[f"u{number}"] = torch.from_numpy(np.stack([code // 2, code % 2], axis=1))
        spoken[-2:] = -1
        phones[f"u{number}"] = torch.from_numpy(spoken)
    return UnitData(codes=codes, phones=phones, codebook_size=2, num_phones=4)


def test_codes_equal_to_phones() -> None:
    joint, first, second = measure_units(unit_data(), 50)
    assert (joint.name, first.name, second.name) == ("joint", "codebook 1", "codebook 2")
    assert (joint.pnmi, joint.phone_purity, joint.cluster_purity) == (pytest.approx(1), 1, 1)
    assert (joint.num_used, first.num_used, first.num_codes) == (4, 2, 2)
    assert 0.3 < first.pnmi < 0.7  # one bit of two
    assert joint.pnmi_shuffled < 0.05
    assert joint.bits.frames == pytest.approx(100, rel=0.02)  # 50 frames of 2 bits


def test_joint_codes_are_counted_in_a_loop() -> None:
    data = unit_data(noise=0.5)
    joint = measure_units(data, 50)[0]
    pairs = Counter()
    for name, codes in data.codes.items():
        for (one, other), phone in zip(codes.tolist(), data.phones[name].tolist(), strict=True):
            if phone >= 0:
                pairs[one, other, phone] += 1
    best = {}
    for (one, other, _), count in pairs.items():
        best[one, other] = max(best.get((one, other), 0), count)
    assert joint.phone_purity == pytest.approx(sum(best.values()) / sum(pairs.values()))


def test_without_phones_there_are_bits_and_runs() -> None:
    data = unit_data()
    joint = measure_units(UnitData(codes=data.codes, phones={}, codebook_size=2, num_phones=0), 50)[0]
    assert (joint.pnmi, joint.phone_purity, joint.cluster_purity, joint.pnmi_shuffled) == (None,) * 4
    assert joint.bits.frames > 0
    assert joint.run_frames > 3


def test_intervals_contain_the_accuracy_and_narrow_with_more_utterances() -> None:
    train = examples([f"a{n}" for n in range(6)], 0.6, 0)
    few, many = (run_probe(train, examples([f"b{n}" for n in range(size)], 0.6, 1), 3) for size in (4, 64))
    wide, narrow = jackknife_probe(few).interval, jackknife_probe(many).interval
    assert wide.low <= wide.value <= wide.high
    assert narrow.low < few.accuracy + 0.2
    assert narrow.high - narrow.low < (wide.high - wide.low)


def test_paired_differences_remove_common_variance() -> None:
    train = examples([f"a{n}" for n in range(6)], 0.6, 0)
    test = examples([f"b{n}" for n in range(10)], 0.6, 1)
    probe = jackknife_probe(run_probe(train, test, 3))
    assert (probe.minus(probe).low, probe.minus(probe).value, probe.minus(probe).high) == (0, 0, 0)
