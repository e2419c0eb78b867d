"""The best layer compared with the best one before training, and with MFCCs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.evaluation.conftest import make_model, write_labelled
from w2vlab.evaluation import EvaluationCorpus, evaluate, open_corpus
from w2vlab.evaluation.evaluate import MFCC
from w2vlab.evaluation.tasks.gain import PENALTIES, Gain, measure_gain
from w2vlab.modules import MaskedPrediction


@pytest.fixture(scope="module")
def gain(corpus: EvaluationCorpus) -> Gain:
    return measure_gain(make_model(1).eval(), make_model(2).eval(), corpus)


def test_accuracies_equal_those_of_an_evaluation(
    gain: Gain, corpus: EvaluationCorpus, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("w2vlab.evaluation.tasks.probe.run_probe.__defaults__", ("cpu", PENALTIES))
    for seed, best in ((1, gain.trained), (2, gain.before)):
        whole = evaluate(make_model(seed).eval(), corpus, shared_cache, "all")
        probes = {measured.name: measured.probe for measured in whole.model.representations}
        assert best is not None
        assert probes[best.representation] == best.probe
        assert set(best.held_out) == set(probes) - {"quantized", "codes"}
        cepstra = next(
            m.probe for source in whole.sources if source.name == MFCC for m in source.representations if m.probe
        )
        assert cepstra == gain.mfcc.probe


def test_the_layer_is_the_best_one_on_held_out_training_utterances(gain: Gain) -> None:
    for best in (gain.trained, gain.before, gain.mfcc):
        assert best is not None
        assert best.held_out[best.representation] == max(best.held_out.values())


def test_test_utterances_do_not_affect_the_choice(gain: Gain, corpus: EvaluationCorpus) -> None:
    """With other test utterances the chosen layers and the held-out accuracies are the same."""
    fewer = replace(corpus, split=replace(corpus.split, test=corpus.split.test[:2]))
    other = measure_gain(make_model(1).eval(), make_model(2).eval(), fewer)
    assert other.trained.held_out == gain.trained.held_out
    assert other.trained.representation == gain.trained.representation
    assert other.trained.probe.correct.keys() < gain.trained.probe.correct.keys()


def test_differences_are_paired(gain: Gain, corpus: EvaluationCorpus) -> None:
    """The difference of a network to itself is exactly zero."""
    model = make_model(1).eval()
    nothing = measure_gain(model, model, corpus).over_before
    assert nothing is not None
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    for difference, other in ((gain.over_before, gain.before), (gain.over_mfcc, gain.mfcc)):
        assert difference is not None
        assert other is not None
        assert difference.value == pytest.approx(gain.trained.probe.accuracy - other.probe.accuracy)
        assert difference.low <= difference.value <= difference.high


def test_a_gain_is_significant(corpus: EvaluationCorpus) -> None:
    """Compared with a network whose encoder is switched off, so that it has no input."""
    deaf = make_model(1)
    with torch.no_grad():
        for parameter in deaf.encoder.parameters():
            parameter.zero_()
    difference = measure_gain(make_model(1).eval(), deaf.eval(), corpus).over_before
    assert difference is not None
    assert difference.low > 0.1


def test_without_the_network_before_training(corpus: EvaluationCorpus) -> None:
    found = measure_gain(make_model(1).eval(), None, corpus)
    assert found.before is None
    assert found.over_before is None
    assert found.mfcc.representation == "mfcc_stacked"


def test_utterances_that_cannot_be_read_are_named(tmp_path: Path, model: MaskedPrediction) -> None:
    root = write_labelled(tmp_path, 4)
    corpus = open_corpus(str(root), tmp_path / "cache")
    (root / "u02.wav").unlink()
    with pytest.raises(ValueError, match=r"`corpus` must have all of its utterances .* 1 cannot be read: u02.wav"):
        measure_gain(model.eval(), None, corpus)
