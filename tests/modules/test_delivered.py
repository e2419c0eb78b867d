"""Shares of the corpora of a mixture, as they are logged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.modules.training import fit, make_batches, make_model, with_updates
from w2vlab.modules import MaskedPrediction
from w2vlab.quantizers import IdentityQuantizer

SECONDS = [{"en": 3.0, "it": 1.0}, {"en": 0.0, "it": 2.0}, {"en": 1.0, "it": 0.0}, {"en": 1.0, "it": 0.0}]
"""Of each corpus in the micro-batches of two updates."""


def mixed_batches():
    batches = make_batches(2, 2, 2)
    return with_updates([replace(b, corpus_seconds=s) for b, s in zip(batches, SECONDS, strict=True)], 2)


def test_shares_are_those_of_all_updates_so_far():
    model = make_model(MaskedPrediction, IdentityQuantizer)
    record = fit(model, mixed_batches(), updates=2, accumulate=2)
    first, second = record.metrics[1::2]
    assert first["data/share/en"] == pytest.approx(3 / 6)
    assert first["data/share/it"] == pytest.approx(3 / 6)
    assert second["data/share/en"] == pytest.approx(5 / 8)
    assert model.delivered.state_dict() == {"en": 5.0, "it": 3.0}


def test_a_resumed_run_counts_on():
    model = make_model(MaskedPrediction, IdentityQuantizer)
    model.delivered.load_state_dict({"en": 10.0, "it": 2.0})
    record = fit(model, mixed_batches(), updates=2, accumulate=2)
    assert record.metrics[-1]["data/share/it"] == pytest.approx(5 / 20)
    assert model.delivered.state_dict() == {"en": 15.0, "it": 5.0}


@pytest.mark.parametrize("state", [None, 3, [1], {"en": "x"}])
def test_a_checkpoint_without_shares(state):
    model = make_model(MaskedPrediction, IdentityQuantizer)
    model.delivered.load_state_dict(state)
    assert model.delivered.state_dict() == {}


def test_nothing_is_logged_without_a_mixture():
    record = fit(make_model(MaskedPrediction, IdentityQuantizer), make_batches(1, 1, 2), updates=1)
    assert not any(name.startswith("data/") for name in record.metrics[0])
