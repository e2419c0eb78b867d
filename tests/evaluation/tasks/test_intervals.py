"""Confidence intervals of all metrics: they contain the estimate, and 90 to 99 % contain the truth in simulations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from w2vlab.data.labels.alignments import Alignment
from w2vlab.evaluation.tasks.abx import AbxTask, make_task
from w2vlab.evaluation.tasks.abx_errors import AbxErrors, measure_abx
from w2vlab.evaluation.tasks.intervals import jackknife_pnmi, jackknife_probe, subsample_abx
from w2vlab.evaluation.tasks.probe import ProbeResult
from w2vlab.evaluation.tasks.unit_quality import UnitData, measure_units
from w2vlab.functional.measures.information import pnmi_estimate
from w2vlab.functional.measures.interval import Interval
from w2vlab.functional.measures.subsampling import SubsamplingEstimate

CORPORA = 300


def held(intervals: list[Interval], truth: float) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


# Phone probe: utterances of 5 to 40 phones, some of which are harder than others, under a probe and a better one.

EASE, BETTER = 1.2, 0.5


def make_probes(draw: np.random.Generator, utterances: int) -> tuple[ProbeResult, ProbeResult]:
    total = draw.integers(5, 40, utterances)
    ease = EASE + draw.normal(0, 0.6, utterances)
    ids = [f"u{number}" for number in range(utterances)]

    def probe(gain: float) -> ProbeResult:
        correct = draw.binomial(total, 1 / (1 + np.exp(-ease - gain)))
        counts = (dict(zip(ids, numbers, strict=True)) for numbers in (correct, total))
        return ProbeResult(correct=next(counts), total=next(counts), majority=0.1, penalty=1.0)

    return probe(0.0), probe(BETTER)


def expected_accuracy(gain: float) -> float:
    ease = EASE + 0.6 * np.random.default_rng(0).normal(size=400_000)
    return float(np.mean(1 / (1 + np.exp(-ease - gain))))


@pytest.mark.parametrize("utterances", [8, 50])
def test_coverage_of_accuracy_intervals(utterances: int) -> None:
    draw = np.random.default_rng(utterances)
    probes = [tuple(jackknife_probe(p) for p in make_probes(draw, utterances)) for _ in range(CORPORA)]
    truths = [expected_accuracy(gain) for gain in (0.0, BETTER)]
    assert 0.9 < held([one.interval for one, _ in probes], truths[0]) < 0.99
    assert 0.9 < held([better.minus(one) for one, better in probes], truths[1] - truths[0]) < 0.99


@given(data=st.lists(st.integers(0, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1))
def test_accuracy_lies_in_its_interval(data: list[tuple[int, int]]) -> None:
    correct, total = ({f"u{i}": pair[side] for i, pair in enumerate([*data, (1, 1)])} for side in (0, 1))
    probe = jackknife_probe(ProbeResult(correct=correct, total=total, majority=0.1, penalty=1.0))
    assert probe.value == sum(correct.values()) / sum(total.values())
    assert 0 <= probe.interval.low <= probe.value <= probe.interval.high <= 1


# PNMI: phones last for some frames, and codes are drawn for each frame by its phone.

PHONES, CODES, LASTS = 12, 40, 3


def code_shares() -> np.ndarray:
    return np.random.default_rng(7).dirichlet(np.full(CODES, 0.3), PHONES)  # (P, V)


def make_utterances(
    draw: np.random.Generator, noise: float, utterances: int = 30
) -> list[tuple[np.ndarray, np.ndarray]]:
    shares = (1 - noise) * code_shares() + noise / CODES
    phones = np.repeat(draw.integers(0, PHONES, (utterances, 25)), LASTS, axis=1)  # (n, T)
    codes = (shares.cumsum(axis=1)[phones] < draw.random((*phones.shape, 1))).sum(axis=2)
    return list(zip(codes, phones, strict=True))


def true_pnmi(noise: float) -> float:
    joint = ((1 - noise) * code_shares() + noise / CODES) / PHONES
    codes = joint.sum(axis=0)
    return float((joint * np.log(joint * PHONES / codes)).sum() / np.log(PHONES))


def test_coverage_of_pnmi_intervals() -> None:
    draw = np.random.default_rng(0)
    plain = [pnmi_estimate(make_utterances(draw, 0.3)) for _ in range(CORPORA)]
    noisy = [pnmi_estimate(make_utterances(draw, 0.6)) for _ in range(CORPORA)]
    assert held([figure.interval for figure in plain], true_pnmi(0.3)) < 0.5  # biased with so few frames
    assert 0.9 < held([figure.bias_corrected().interval for figure in plain], true_pnmi(0.3)) < 0.99
    assert 0.9 < held([figure.bias_corrected().interval for figure in noisy], true_pnmi(0.6)) < 0.99


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), utterances=st.integers(1, 6), codes=st.integers(1, 9), phones=st.integers(1, 4))
def test_pnmi_lies_in_its_interval(seed: int, utterances: int, codes: int, phones: int) -> None:
    """Even with more codes than frames, when the interval of a bootstrap is above its estimate."""
    draw = np.random.default_rng(seed)
    ids = [f"u{number}" for number in range(utterances)]
    tuples = {name: torch.from_numpy(draw.integers(0, codes, (8, 2))) for name in ids}
    spoken = {name: torch.from_numpy(draw.integers(-1, phones, 8)) for name in ids}
    spoken[ids[0]][0] = 0
    data = UnitData(codes=tuples, phones=spoken, codebook_size=codes, num_phones=phones)
    figure, joint = jackknife_pnmi(data), measure_units(data, 50)[0]
    if (torch.cat(list(spoken.values())) > 0).any():
        assert figure.value == pytest.approx(joint.pnmi, abs=1e-9)
    assert joint.pnmi_corrected == figure.bias_corrected().value
    for interval in (figure.interval, figure.bias_corrected().interval):
        assert 0 <= interval.low <= interval.value <= interval.high <= 1


# ABX: an unbalanced alphabet; each utterance has its own colour, which all its items share.

OFTEN, PLACES = (0.4, 0.3, 0.2, 0.1), np.array([0.0, 0.8, 1.3, 2.2])
NAMES = ("a", "b", "c", "d")


def make_corpus(draw: np.random.Generator, neighbours: int, utterances: int, items: int) -> tuple[AbxTask, np.ndarray]:
    """Returns the task, and for each utterance and place in it a number that phone, utterance and chance make.

    Around each phone stand two of `neighbours` phones, so that there are that many times that many neighbourhoods.
    """
    spoken = draw.choice(len(NAMES), (utterances, items), p=OFTEN)
    around = draw.integers(0, neighbours, (utterances, items, 2))
    colour, noise = draw.normal(0, 0.3, (utterances, 1)), draw.normal(0, 0.6, spoken.shape)
    alignments = {}
    for number, (phones, sides) in enumerate(zip(spoken, around, strict=True)):
        names = [
            name
            for phone, (before, after) in zip(phones, sides, strict=True)
            for name in ("pau", f"n{before}", NAMES[phone], f"n{after}")
        ]
        ends = np.arange(1.0, len(names) + 2)
        alignments[f"u{number:02}"] = Alignment((*names, "pau"), ends - 1, ends)
    # Context phones are phones too, each with a pause on one side, in a context with no other phone.
    task = make_task(alignments)
    cells = tuple(cell for cell in task.cells if cell.phone in NAMES and cell.other in NAMES)
    return AbxTask("within", cells, len(cells)), PLACES[spoken] + colour + noise


def errors_of(task: AbxTask, values: np.ndarray) -> AbxErrors:
    """Each item has a single frame that is an angle, so that distances are differences of values."""
    angles = torch.from_numpy(0.3 * values)
    frames = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return measure_abx(task, lambda item: frames[int(item.utterance[1:]), int(item.start) // 4][None])


@pytest.mark.parametrize(("neighbours", "utterances", "items"), [(1, 16, 3), (3, 16, 5)], ids=["common", "rare"])
def test_coverage_of_abx_intervals(
    neighbours: int, utterances: int, items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth is the mean over corpora of this size; in rare contexts most cells have three items."""
    draw = np.random.default_rng(0)
    figures: list[tuple[SubsamplingEstimate, SubsamplingEstimate]] = []
    monkeypatch.setattr("w2vlab.evaluation.tasks.abx_errors._MAX_TRIPLES", 400)
    for _ in range(CORPORA // 2):
        task, values = make_corpus(draw, neighbours, utterances, items)
        worse = values + draw.normal(0, 0.5, values.shape)
        figures.append((subsample_abx(errors_of(task, values)), subsample_abx(errors_of(task, worse))))
    one, other = (np.array([pair[side].value for pair in figures]) for side in (0, 1))
    assert 0.9 < held([figure.interval for figure, _ in figures], one.mean()) < 0.99
    assert 0.9 < held([other.minus(one) for one, other in figures], (other - one).mean()) < 0.99
