"""Any quantizer under any objective, and every other part in the place of its family."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from tests.contracts.tiny import (
    WIDTH,
    address,
    assert_gradients_finite,
    audio_batch,
    build,
    build_model,
    classes,
    factory,
    with_quantizers,
)
from w2vlab.functional.contrastive import fingerprint
from w2vlab.interfaces import LearnsByStatistics, UtteranceTargets
from w2vlab.losses import ContrastiveLoss
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule, TeacherPrediction
from w2vlab.quantizers import CentersQuantizer, GumbelQuantizer
from w2vlab.types import TargetSpec

MODELS = [cls for cls in classes("model") if issubclass(cls, PretrainingModule)]
PAIRS = list(product(classes("quantizer"), classes("loss")))
WITH_CODEBOOKS = [cls for cls in classes("quantizer") if build(cls).num_codebooks]


def needs_codebooks(loss: type) -> bool:
    """Whether a loss refuses continuous targets."""
    try:
        factory(loss)(WIDTH, TargetSpec(dim=WIDTH, num_codebooks=0, codebook_size=0))
    except ValueError as error:
        return "must have codebooks" in str(error)
    return False


def is_legal(quantizer: type, loss: type) -> bool:
    return build(quantizer).num_codebooks > 0 or not needs_codebooks(loss)


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
@pytest.mark.parametrize(
    ("model", "quantizer"), with_quantizers(MODELS, classes("quantizer")), ids=lambda cls: cls.__name__
)
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
    arguments = {"quantizer": factory(GumbelQuantizer)} if needs_codebooks(loss) else {}
    assert_trains(build_model(model, loss=factory(loss), **arguments))


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")
@pytest.mark.parametrize(("model", "quantizer"), with_quantizers(MODELS, WITH_CODEBOOKS), ids=lambda cls: cls.__name__)
def test_all_sources_of_negatives_together(model: type, quantizer: type) -> None:
    torch.manual_seed(0)
    loss = factory(ContrastiveLoss, num_other_negatives=3, num_codebook_negatives=3, negatives_from="anywhere")
    assert_trains(build_model(model, quantizer=factory(quantizer), loss=loss))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "quantizer",
    [cls for cls in WITH_CODEBOOKS if not issubclass(cls, UtteranceTargets)],
    ids=lambda cls: cls.__name__,
)
def test_a_codeword_is_known_for_the_target_that_it_equals(quantizer: type, training: bool) -> None:
    """Bit by bit, or a codeword drawn as a negative could be the true target."""
    torch.manual_seed(0)
    part = build(quantizer).train(training)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = part(torch.randn(2, 20, WIDTH, dtype=dtype))
            codewords = part.lookup(output.codes).to(output.quantized.dtype)
        assert torch.equal(fingerprint(codewords), fingerprint(output.quantized))


@pytest.mark.parametrize(
    ("quantizer", "loss"), [pair for pair in PAIRS if not is_legal(*pair)], ids=lambda cls: cls.__name__
)
@pytest.mark.parametrize("model", MODELS, ids=lambda cls: cls.__name__)
def test_a_loss_of_codes_names_the_quantizer_that_has_none(model: type, quantizer: type, loss: type) -> None:
    with pytest.raises(ValueError, match=f"`quantizer` must have codebooks for {loss.__name__}, but its targets are"):
        build_model(model, quantizer=factory(quantizer), loss=factory(loss))


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")
@pytest.mark.parametrize(
    ("model", "quantizer", "loss"),
    [
        (model, quantizer, loss)
        for model, quantizer in with_quantizers(MODELS, classes("quantizer"))
        for loss in classes("loss")
        if is_legal(quantizer, loss)
    ],
    ids=lambda cls: cls.__name__,
)
def test_fifty_updates_on_one_batch_lower_the_prediction_loss(model: type, quantizer: type, loss: type) -> None:
    """One batch with one mask, one draw of negatives and one draw of noise, updated as training does it."""
    torch.manual_seed(0)
    built = build_model(model, quantizer=factory(quantizer), loss=factory(loss))
    optimizer = torch.optim.AdamW(built.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    for update in range(50):
        torch.manual_seed(0)
        built.set_update(update)
        output = built(audio_batch((420, 300, 360)), address(3))
        count = sum(output.prediction.num_predictions)
        optimizer.zero_grad()
        (torch.stack(list(built.objective_terms(output).values())).sum() / count).backward()
        for part in built.modules():
            if isinstance(part, LearnsByStatistics):
                part.finish_update(update)
        optimizer.step()
        if isinstance(built, TeacherPrediction):
            built.teacher.follow(built.context, update)
        losses.append(float(output.prediction.total.detach()) / count)
    assert sum(losses[-5:]) < sum(losses[:5])
    # The tiny centers are not of what a teacher computes, so that one of them may be the nearest to all of it.
    if built.quantizer.num_codebooks and not (model is TeacherPrediction and quantizer is CentersQuantizer):
        # Nor is it lower because of a collapse, in which positives and negatives are equal.
        assert len(output.targets.codes[0].unique(dim=0)) > 1


@pytest.mark.parametrize("penalty", classes("penalty"), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("model", MODELS, ids=lambda cls: cls.__name__)
@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")
def test_penalty_under_model(model: type, penalty: type) -> None:
    torch.manual_seed(0)
    assert_trains(build_model(model, penalties={"penalty": factory(penalty)}))


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")
@pytest.mark.parametrize(
    ("model", "quantizer"), with_quantizers(MODELS, classes("quantizer")), ids=lambda cls: cls.__name__
)
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
