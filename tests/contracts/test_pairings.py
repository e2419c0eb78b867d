"""Any quantizer under any objective, and every other part in the place of its family."""

from __future__ import annotations

import pytest
import torch

from tests.contracts.tiny import (
    address,
    assert_gradients_finite,
    audio_batch,
    build_model,
    classes,
    factory,
)
from w2vlab.modules import FuturePrediction, MaskedPrediction

MODELS = classes("model")


def assert_trains(model: torch.nn.Module) -> None:
    batch = audio_batch((420, 300, 360))
    output = model(batch, address(3))
    terms = model.objective_terms(output)
    total = torch.stack(list(terms.values())).sum()
    assert total.isfinite()
    assert model.loss.name in terms
    assert set(output.targets.losses) <= set(terms)
    total.backward()
    assert_gradients_finite(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")
@pytest.mark.parametrize("quantizer", classes("quantizer"), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("model", MODELS, ids=lambda cls: cls.__name__)
def test_quantizer_under_model(model: type, quantizer: type) -> None:
    torch.manual_seed(0)
    assert_trains(build_model(model, quantizer=factory(quantizer)))


@pytest.mark.parametrize("encoder", classes("encoder"), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("model", MODELS, ids=lambda cls: cls.__name__)
def test_encoder_under_model(model: type, encoder: type) -> None:
    torch.manual_seed(0)
    assert_trains(build_model(model, encoder=factory(encoder)))


@pytest.mark.parametrize("context", classes("context"), ids=lambda cls: cls.__name__)
def test_context_under_masked_prediction(context: type) -> None:
    torch.manual_seed(0)
    assert_trains(build_model(MaskedPrediction, context=factory(context)))


@pytest.mark.parametrize("context", [c for c in classes("context") if c.causal], ids=lambda cls: cls.__name__)
def test_causal_context_under_future_prediction(context: type) -> None:
    torch.manual_seed(0)
    assert_trains(build_model(FuturePrediction, context=factory(context)))


@pytest.mark.parametrize("masking", classes("masking"), ids=lambda cls: cls.__name__)
def test_masking_under_masked_prediction(masking: type) -> None:
    torch.manual_seed(0)
    assert_trains(build_model(MaskedPrediction, masking=factory(masking)))


@pytest.mark.parametrize("loss", classes("loss"), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("model", MODELS, ids=lambda cls: cls.__name__)
def test_loss_under_model(model: type, loss: type) -> None:
    torch.manual_seed(0)
    assert_trains(build_model(model, loss=factory(loss)))


@pytest.mark.parametrize("penalty", classes("penalty"), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("model", MODELS, ids=lambda cls: cls.__name__)
@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")
def test_penalty_under_model(model: type, penalty: type) -> None:
    torch.manual_seed(0)
    assert_trains(build_model(model, penalties={"penalty": factory(penalty)}))


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")
@pytest.mark.parametrize("quantizer", classes("quantizer"), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("model", MODELS, ids=lambda cls: cls.__name__)
def test_pairing_in_bfloat16_and_float64(model: type, quantizer: type) -> None:
    batch = audio_batch((420, 300))
    built = build_model(model, quantizer=factory(quantizer))
    with torch.autocast("cpu", torch.bfloat16):
        terms = built.objective_terms(built(batch, address(2)))
    assert all(value.isfinite() for value in terms.values())
    assert terms[built.loss.name].dtype == torch.float32
    torch.stack(list(terms.values())).sum().backward()
    assert_gradients_finite(built)
    built.double()
    terms = built.objective_terms(built(batch.to(torch.float64), address(2)))
    assert terms[built.loss.name].dtype == torch.float64
