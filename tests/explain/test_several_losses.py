"""Chance and uninformed loss of several losses are those of the first, and never of a sum."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from tests.contracts.tiny import build_model, factory
from w2vlab.explain.run import Start, blind_loss
from w2vlab.explain.text import _start
from w2vlab.interfaces import LossTerm
from w2vlab.losses import CodePredictionLoss, ContrastiveLoss, RegressionLoss
from w2vlab.modules import MaskedPrediction, TeacherPrediction
from w2vlab.quantizers import EMAQuantizer

CONTRASTIVE, CODES, REGRESSION = map(factory, (ContrastiveLoss, CodePredictionLoss, RegressionLoss))


def model(objective, weight=1.0, **losses):
    first, *_ = losses
    terms = {name: LossTerm(loss=loss, weight=weight if name == first else 3.0) for name, loss in losses.items()}
    return build_model(objective, losses=terms, quantizer=factory(EMAQuantizer))


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize(("objective", "second"), [(MaskedPrediction, CONTRASTIVE), (TeacherPrediction, REGRESSION)])
def test_the_uninformed_loss_is_that_of_the_first(objective, second, weight):
    """A regression beside it has an error that depends on its targets."""
    built = model(objective, weight, codes=CODES, second=second)
    assert blind_loss(built) == pytest.approx(math.log(built.quantizer.codebook_size))


@pytest.mark.parametrize("losses", [{"regression": REGRESSION, "codes": CODES}, {"codes": CODES, "more": REGRESSION}])
def test_there_is_none_without_candidates_or_without_a_weight(losses):
    assert blind_loss(model(TeacherPrediction, float("regression" in losses), **losses)) is None


def test_the_text_names_the_loss():
    rows = _start(SimpleNamespace(start=Start.of(5, 1.6, None, "contrastive")))
    assert rows["chance"].startswith("1 of 5 candidates of the loss contrastive; ln 5 = 1.6094 nats")
    assert rows["uninformed loss"].endswith("with all weights of the loss contrastive at zero")
    rows = _start(SimpleNamespace(start=Start.of(0, None, None, "regression")))
    assert rows["chance"] == "none: the loss regression does not choose among candidates"
    rows = _start(SimpleNamespace(start=Start.of(5, None, None)))
    assert rows["chance"].startswith("1 of 5 candidates; ")
