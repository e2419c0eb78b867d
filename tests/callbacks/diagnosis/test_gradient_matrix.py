"""Gradients by loss term and part: against closed forms, against training, and known zeros."""

from __future__ import annotations

import io
import json
import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from tests.callbacks.toy_runs import teacher_model
from tests.contracts.tiny import address, audio_batch, build_model, classes, factory, with_quantizers
from tests.modules.training import (
    MODELS,
    NoiselessGumbel,
    make_model,
)
from w2vlab.callbacks.diagnosis.gradient_matrix import (
    GradientMatrix,
    compute_term_gradients,
    gradient_matrix,
    layers_and_heads,
    parts_without_gradient,
    trained_parts,
)
from w2vlab.callbacks.diagnosis.gradient_picture import draw_gradient_matrix
from w2vlab.losses import CodePredictionLoss, DiversityPenalty, FeaturePenalty
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.quantizers import EMAQuantizer, GumbelQuantizer, KMeansQuantizer

PENALTIES = {"diversity": partial(DiversityPenalty, weight=1.0), "feature": FeaturePenalty}


def forward(model: PretrainingModule) -> tuple[dict[str, torch.Tensor], int]:
    """The terms of a step on three utterances, one of them padded, and the number of predictions."""
    dtype = next(model.parameters()).dtype
    output = model(audio_batch((400, 310, 400)).to(dtype), address(3))
    return model.objective_terms(output), sum(output.prediction.num_predictions)


def matrix_of(model: PretrainingModule) -> GradientMatrix:
    return gradient_matrix(model, *forward(model))


def reached_by(matrix: GradientMatrix, term: str) -> set[str]:
    return {part for part in matrix.parts if matrix.norm(term, part) != 0}


class Model(nn.Module):
    """Two children and a direct parameter."""

    def __init__(self, first: list[float], second: list[float]) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.ones(2))
        self.first = nn.ParameterList([torch.tensor(first[:1]), torch.tensor(first[1:])]).double()
        self.second = nn.ParameterList([torch.tensor(second)]).double()
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


vectors = st.lists(st.integers(-50, 50).map(lambda n: n / 7), min_size=3, max_size=3)


@settings(deadline=None)
@given(vectors, vectors, vectors, st.integers(1, 9))
def test_closed_form(first: list[float], second: list[float], slope: list[float], count: int) -> None:
    """d/da (a a / 2 + s a + a b) = a + s + b and d/db (a b) = a, term by term, divided by the count."""
    model = Model(first, second)
    a, b, s = torch.cat(list(model.first)), model.second[0], torch.tensor(slope, dtype=torch.float64)
    terms = {"square": a.square().sum() / 2, "slope": (s * a).sum(), "product": (a * b).sum(), "none": torch.zeros(())}
    matrix = gradient_matrix(model, terms, count)
    assert matrix.terms == tuple(terms)
    assert matrix.parts == ("first", "second", "own")
    a, b, s = (vector.detach().numpy() for vector in (a, b, s))
    zero = np.zeros(3)
    sent = {"first": [a, s, b, zero], "second": [zero, zero, a, zero], "own": [zero] * 4}
    for column, part in enumerate(matrix.parts):
        total = sum(sent[part])
        assert matrix.total[column].item() == pytest.approx(np.linalg.norm(total) / count, rel=1e-12)
        for term, gradient in zip(terms, sent[part], strict=True):
            length = np.linalg.norm(gradient)
            assert matrix.norm(term, part) == pytest.approx(length / count, rel=1e-12)
            if length > 1e-3 and np.linalg.norm(total) > 1e-3:
                cosine = gradient @ total / length / np.linalg.norm(total)
                assert matrix.cosine(term, part) == pytest.approx(cosine, abs=1e-9)
            elif length == 0:
                assert math.isnan(matrix.cosine(term, part))


def test_a_gradient_whose_square_underflows_is_not_zero() -> None:
    model = nn.ModuleDict({"part": nn.Linear(1, 1, bias=False)})
    matrix = gradient_matrix(model, {"faint": 1e-30 * model["part"].weight.sum()})
    assert matrix.norm("faint", "part") == pytest.approx(1e-30)
    assert matrix.cosine("faint", "part") == pytest.approx(1)


def test_values_that_are_not_finite_are_valid_json_and_can_be_drawn() -> None:
    model = nn.ModuleDict({"broken": nn.Linear(1, 1, bias=False), "whole": nn.Linear(1, 1, bias=False)})
    broken, whole = model["broken"].weight.sum(), model["whole"].weight.sum()
    matrix = gradient_matrix(model, {"a": broken * math.inf + whole, "b": broken * math.nan})
    assert matrix.norm("a", "whole") == 1
    content = json.loads(json.dumps(matrix.as_dict(), allow_nan=False))
    assert content["norms"] == {"a": {"broken": None, "whole": 1.0}, "b": {"broken": None, "whole": 0.0}}
    assert content["cosines"]["a"] == {"broken": None, "whole": 1.0}
    assert content["total"] == {"broken": None, "whole": 1.0}
    draw_gradient_matrix(matrix, "A title").savefig(io.BytesIO())


def test_without_parameters_or_terms() -> None:
    with pytest.raises(ValueError, match="`module` must have trainable parameters, but has none"):
        gradient_matrix(nn.Identity(), {"a": torch.zeros(())})
    with pytest.raises(ValueError, match="`terms` must name at least one term, but is empty"):
        gradient_matrix(nn.Linear(1, 1), {})


# The parts of models, and their gradients

every_model = pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)


@pytest.mark.parametrize(
    ("cls", "quantizer"), with_quantizers(MODELS, classes("quantizer")), ids=lambda cls: cls.__name__
)
def test_terms_add_up_to_the_gradient_of_training(cls: type[PretrainingModule], quantizer: type) -> None:
    torch.manual_seed(0)
    penalties = PENALTIES if quantizer is GumbelQuantizer else {"feature": FeaturePenalty}
    model = build_model(cls, quantizer=factory(quantizer), penalties=penalties).double()
    terms, count = forward(model)
    parameters = list(model.parameters())
    gradients = compute_term_gradients(terms, parameters)
    matrix = gradient_matrix(model, terms, count)
    assert all(parameter.grad is None for parameter in parameters)
    torch.stack(list(terms.values())).sum().backward()  # as in `training_step`; the graph was retained
    for index, parameter in enumerate(parameters):
        found = [rows[index] for rows in gradients.values() if rows[index] is not None]
        assert_close(sum(found, torch.zeros_like(parameter)), parameter.grad, rtol=1e-10, atol=1e-10)
    parts = trained_parts(model)
    assert sum(parameter.numel() for part in parts.values() for parameter in part) == sum(
        parameter.numel() for parameter in parameters
    )
    for index, (part, owned) in enumerate(parts.items()):
        total = torch.cat([parameter.grad.flatten() for parameter in owned]).norm() / count
        assert_close(matrix.total[index], total, rtol=1e-10, atol=1e-12)
        along = sum(matrix.norm(term, part) * matrix.cosine(term, part) for term in terms if matrix.norm(term, part))
        assert along == pytest.approx(total.item(), rel=1e-10, abs=1e-12)


def test_gumbel_in_wav2vec2() -> None:
    """Diversity has gradients for the scores and the parts before them, but not for the codebook."""
    matrix = matrix_of(make_model(MaskedPrediction, NoiselessGumbel, diversity=True))
    projections = {"loss.context_projection", "loss.target_projection"}
    everything = {"encoder", "norm", "codebook", "scores", "context", "mask_embedding", *projections}
    assert set(matrix.parts) == everything
    assert reached_by(matrix, "contrastive") == everything
    assert reached_by(matrix, "diversity") == {"encoder", "norm", "scores"}
    assert reached_by(matrix, "feature") == {"encoder"}
    assert matrix.cosine("contrastive", "codebook") == pytest.approx(1)


def test_gumbel_in_vq_wav2vec_has_gradients_for_its_scores_without_diversity() -> None:
    model = build_model(FuturePrediction, quantizer=factory(GumbelQuantizer))
    matrix = matrix_of(model)
    assert matrix.terms == ("future",)
    assert reached_by(matrix, "future") == {"encoder", "codebook", "scores", "context", "loss.step_projection"}


@every_model
def test_kmeans_learns_its_codebook_from_its_own_loss_alone(cls: type[PretrainingModule]) -> None:
    model = make_model(cls, KMeansQuantizer)
    matrix = matrix_of(model)
    normalised = {"norm"} if cls is MaskedPrediction else set()
    copied = {"encoder", "quantizer.projection", "quantizer.norm"} | normalised
    assert reached_by(matrix, "kmeans") == copied | {"codebook"}
    assert reached_by(matrix, model.loss.name) == set(matrix.parts) - {"codebook"}
    assert {"context", "codebook"} < set(matrix.parts)
    assert reached_by(matrix, "feature") == {"encoder"}


def test_constant_targets_have_zero_gradients() -> None:
    """They are in the graph with a zero gradient, because DDP requires it."""
    model = build_model(
        MaskedPrediction, loss=factory(CodePredictionLoss), quantizer=factory(NoiselessGumbel), penalties={}
    )
    matrix = matrix_of(model)
    expected = {"encoder", "norm", "context", "loss.code_scores", "mask_embedding"}
    assert reached_by(matrix, "code_prediction") == expected
    assert {"codebook", "scores"} < set(matrix.parts)


def spidr(similarity: str = "linear") -> PretrainingModule:
    return teacher_model(
        {"combine": "concatenate"},
        quantizer=partial(EMAQuantizer, num_codebooks=2, codebook_size=5),
        loss=partial(CodePredictionLoss, layers=[1, 2], similarity=similarity),
    ).double()


@pytest.mark.parametrize("similarity", ["linear", "cosine"])
def test_layers_and_heads_are_parts_of_their_own(similarity: str) -> None:
    """Layer 2 has a gradient from its own head alone, layer 1 from both."""
    model = spidr(similarity)
    terms, count = forward(model)
    parts = layers_and_heads(model)
    layers, heads = ["context.layer_1", "context.layer_2"], ["loss.head_1_layer_1", "loss.head_2_layer_2"]
    assert set(parts) == {"encoder", "norm", "context", *layers, *heads, "mask_embedding"}
    whole, split = gradient_matrix(model, terms, count), gradient_matrix(model, terms, count, parts)
    term = model.loss.name
    for name, pieces in (("context", ["context", *layers]), ("loss.code_scores", heads)):
        norms = [split.norm(term, piece) for piece in pieces]
        assert min(norms) > 0
        assert math.hypot(*norms) == pytest.approx(whole.norm(term, name), rel=1e-9)
    model.zero_grad()
    output = model(audio_batch((400, 310, 400)).to(torch.float64), address(3))
    output.prediction.total.backward()
    first = [weight.grad[: len(weight) // 2].flatten() for weight in model.loss.code_scores.parameters()]
    assert split.norm(term, heads[0]) == pytest.approx(torch.cat(first).norm().item() / count, rel=1e-9)


def test_a_teacher_has_no_gradient() -> None:
    model = spidr()
    assert parts_without_gradient(model) == ("teacher",)
    assert not any(part.startswith("teacher") for part in layers_and_heads(model))
    assert parts_without_gradient(build_model(MaskedPrediction)) == ()
    terms, count = forward(model)
    figure = draw_gradient_matrix(gradient_matrix(model, terms, count), "A title", without_gradient=("teacher",))
    assert figure.get_supxlabel() == "no gradient, by design: teacher"


def test_quantized_inputs_are_separate_parts() -> None:
    model = build_model(
        MaskedPrediction,
        quantizer=factory(NoiselessGumbel),
        inputs="quantized",
        input_quantizer=factory(NoiselessGumbel),
    )
    assert {"codebook", "scores", "input_codebook", "input_scores"} < set(matrix_of(model).parts)


# The figure


def test_picture_shows_zero_gradients_as_0() -> None:
    matrix = matrix_of(make_model(MaskedPrediction, NoiselessGumbel, diversity=True))
    figure = draw_gradient_matrix(matrix, "A title")
    figure.savefig(io.BytesIO())
    lengths, _, directions, _ = sorted(figure.axes, key=lambda axes: axes.get_position().x0)
    assert figure.get_suptitle() == "A title"
    assert [label.get_text() for label in lengths.get_yticklabels()] == list(matrix.parts)
    assert [label.get_text() for label in lengths.get_xticklabels()] == [*matrix.terms, "all terms"]
    written = np.array([text.get_text() for text in lengths.texts]).reshape(len(matrix.parts), -1)
    norms = torch.cat([matrix.norms, matrix.total[None]]).T.numpy()
    assert ((written == "0") == (norms == 0)).all()
    assert np.allclose(written.astype(float), norms, rtol=0.06)
    cosines = np.array([text.get_text() for text in directions.texts]).reshape(len(matrix.parts), -1)
    assert ((cosines == "") == (matrix.norms.T.numpy() == 0)).all()


@pytest.mark.parametrize("terms", [1, 4])
def test_names_do_not_overlap(terms: int) -> None:
    names = ("contrastive", "a_rather_long_penalty", "another_long_penalty", "kmeans")[:terms]
    parts = ("encoder", "loss.context_projection")
    norms = torch.ones(terms, 2, dtype=torch.float64)
    matrix = GradientMatrix(terms=names, parts=parts, norms=norms, cosines=norms, total=terms * norms[0])
    figure = draw_gradient_matrix(matrix, "A title " * 8)
    figure.savefig(io.BytesIO())
    inside = figure.bbox
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1
        boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
