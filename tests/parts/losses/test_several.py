"""Value and gradients of several losses: the weighted sum of the means of each, by hand in float64."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contracts.tiny import address, audio_batch, factory
from tests.parts.losses.several import MODELS, NUM_LAYERS, W2V_BERT, codes, contrastive, model_of, w2v_bert
from w2vlab.interfaces import LossTerm
from w2vlab.losses import ContrastiveLoss
from w2vlab.modules import PretrainingModule
from w2vlab.quantizers import KMeansQuantizer
from w2vlab.types import LossInputs, PretrainOutput

BATCH = audio_batch((420, 360, 300))


def traced(model: PretrainingModule) -> tuple[PretrainOutput, LossInputs]:
    """The output, and what the losses were given."""
    seen: list[LossInputs] = []
    handle = model.loss.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    output = model(BATCH.to(torch.float64), address(len(BATCH)))
    handle.remove()
    return output, seen[0]


def mean_of(loss: Any, inputs: LossInputs, layer: int | None) -> Tensor:
    """The mean of one loss alone over its predictions."""
    context = inputs.context if layer is None else inputs.layers[layer]
    frames = inputs.all_frames if loss.uses_every_frame else None
    output = loss(replace(inputs, context=context, all_frames=frames, layers={}))
    return output.total / sum(output.num_predictions)


@pytest.mark.parametrize("name", MODELS)
def test_the_objective_is_the_weighted_sum_of_the_means(name: str) -> None:
    model = MODELS[name]().double()
    output, inputs = traced(model)
    terms = list(model.loss.terms.items())
    layers, weights = {"w2v-BERT": ((2, None), (1.0, 0.7)), "ILS": ((1, -1), (1.0, 1.0))}.get(
        name, ((None, 2), (1.0, 0.5))
    )
    means = [mean_of(loss, inputs, layer) for (_, loss), layer in zip(terms, layers, strict=True)]
    expected = torch.stack([weight * mean for weight, mean in zip(weights, means, strict=True)]).sum()
    count = sum(output.prediction.num_predictions)
    assert_close(output.prediction.total / count, expected, rtol=1e-12, atol=0)
    for (term, _), weight, mean in zip(terms, weights, means, strict=True):
        assert_close(output.prediction.terms[term] / count, weight * mean, rtol=1e-12, atol=0)
    objective = model.objective_terms(output)
    assert list(objective)[:2] == [term for term, _ in terms]
    parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    ours = torch.autograd.grad(output.prediction.total / count, list(parameters.values()), **options)
    by_hand = torch.autograd.grad(expected, list(parameters.values()), **options)
    for parameter, mine, reference in zip(parameters, ours, by_hand, strict=True):
        assert_close(mine, reference, rtol=1e-9, atol=1e-13, msg=lambda text, n=parameter: f"{n}: {text}")
    assert sum(bool(gradient.any()) for gradient in ours) > 20


def test_one_loss_in_a_mapping_is_that_loss() -> None:
    """The same weights and the same numbers, bit for bit."""
    single = model_of(contrastive)
    mapped = model_of({"contrastive": LossTerm(loss=contrastive)})
    one, other = (model(BATCH, address(len(BATCH))) for model in (single, mapped))
    assert torch.equal(one.prediction.total, other.prediction.total)
    for model, output in ((single, one), (mapped, other)):
        torch.stack(list(model.objective_terms(output).values())).sum().backward()
    found = {name.replace("loss.contrastive.", "loss."): p.grad for name, p in mapped.named_parameters()}
    for name, parameter in single.named_parameters():
        assert torch.equal(parameter.grad, found[name]), name


def test_a_loss_on_a_layer_trains_nothing_above_it() -> None:
    model = w2v_bert().double()
    output, _ = traced(model)
    for term, last in (("contrastive", 2), ("codes", NUM_LAYERS)):
        model.zero_grad()
        output.prediction.terms[term].backward(retain_graph=True)
        for number, layer in enumerate(model.context.layers, 1):
            gradients = [p.grad for p in layer.parameters() if p.grad is not None]
            assert any(bool(gradient.any()) for gradient in gradients) == (number <= last), (term, number)
    model.zero_grad()
    torch.stack(list(model.objective_terms(output).values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name}: DDP would wait for ever"


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_loss_on_the_last_layer_alone_leaves_gradients_everywhere(weight: float) -> None:
    """Also of what follows the last layer, which is not trained then."""
    terms = {
        "one": LossTerm(loss=contrastive, layer=1, weight=weight),
        "last": LossTerm(loss=contrastive, layer=NUM_LAYERS),
    }
    model = model_of(terms, penalties={})
    model(BATCH, address(len(BATCH))).prediction.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


def test_a_loss_of_all_frames_does_not_change_the_distractors_of_another() -> None:
    anywhere = partial(contrastive, negatives_from="anywhere")
    together = model_of({"near": LossTerm(loss=contrastive), "far": LossTerm(loss=anywhere, layer=1)}).double()
    alone = model_of({"near": LossTerm(loss=contrastive)}).double()
    alone.load_state_dict({k: v for k, v in together.state_dict().items() if not k.startswith("loss.far")})
    both, one = (traced(model)[0].prediction.terms["near"] for model in (together, alone))
    assert_close(both, one, rtol=1e-12, atol=0)


def test_accuracies_are_of_each_loss() -> None:
    model = w2v_bert().double()
    output, inputs = traced(model)
    prediction = output.prediction
    assert prediction.num_candidates == 5  # of the first loss: 1 and 4 distractors
    targets = sum(output.mask.num_targets)
    assert prediction.shares["accuracy/contrastive"] == (prediction.num_correct, targets)
    right, count = prediction.shares["accuracy/codes"]
    logits = model.loss.codes.score(inputs.context)
    found = (logits.argmax(dim=-1) == inputs.targets.codes).float()
    padding = torch.arange(found.shape[1])[None] < torch.tensor(output.mask.num_targets)[:, None]
    assert (int(right), count) == (int((found * padding[..., None]).sum()), 2 * targets)
    assert "excluded_negatives" in prediction.shares


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, r"^`losses` must be a mapping of at least one"),
        ({"a.b": LossTerm(loss=codes)}, r"must be words that are not reserved, but one is 'a\.b'"),
        ({"total": LossTerm(loss=codes)}, r"must be words that are not reserved, but one is 'total'"),
        ({"forward": LossTerm(loss=codes)}, r"must be words that are not reserved, but one is 'forward'"),
        ({"a": LossTerm(loss=codes, weight=-1.0)}, r"^`losses\.a\.weight` must be at least 0, but is -1\.0\."),
        ({"a": LossTerm(loss=codes, weight=float("nan"))}, r"^`losses\.a\.weight` must be at least 0, but is nan\."),
        ({"a": LossTerm(loss=codes, weight=0)}, r"^`weight` must be above 0 for at least one loss in `losses`"),
        ({"a": LossTerm(loss=codes, layer=4)}, r"^`losses\.a\.layer` must be from 1 to 3 .*, but is 4\."),
        (
            {"a": LossTerm(loss=codes, layer=2), "b": LossTerm(loss=contrastive, layer=-3)},
            r"^`losses\.a\.layer` and `losses\.b\.layer` must include the last layer of `context`, 3, but are 2, -3",
        ),
        (
            {"a": LossTerm(loss=codes, layer=2), "b": LossTerm(loss=contrastive, weight=0.0)},
            r"^`losses\.a\.layer` must include the last layer of `context`, 3, but is 2: no loss would ",
        ),
        (
            {"a": LossTerm(loss=partial(codes, layers=[1, 9]))},
            r"^`losses\.a\.loss\.layers` must be from .*, but is 9\.",
        ),
        (
            {
                "a": LossTerm(loss=partial(codes, layers=[1, 3], output="feedforward")),
                "b": LossTerm(loss=codes, layer=2),
            },
            r"^`losses\.a\.loss\.output` must be layer if .* as `b` does, but is feedforward\.",
        ),
        (
            {"a": LossTerm(loss=partial(codes, layers=[1, 3]), layer=3)},
            r"^`losses\.a\.layer` must be null if the loss has its own `layers`, but is 3\.",
        ),
        (
            {"a": LossTerm(loss=contrastive), "b": LossTerm(loss=partial(codes, unmasked_weight=0.5))},
            r"^The losses in `losses` must have a constant ratio of numbers of predictions, but `b` and `a` have none",
        ),
        ({"diversity": LossTerm(loss=contrastive)}, r"^The names in `penalties` must not be .*, but `diversity` is\."),
    ],
)
def test_what_does_not_fit_is_an_error(terms: dict[str, LossTerm], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_of(terms)


def test_unmasked_frames_can_be_predicted_by_all() -> None:
    weighted = partial(codes, unmasked_weight=0.5)
    model = model_of({"a": LossTerm(loss=weighted, layer=1), "b": LossTerm(loss=weighted, weight=0.25)}).double()
    output, inputs = traced(model)
    frames = inputs.all_frames
    expected = []
    losses = zip(model.loss.terms.values(), (frames.layers[1], frames.context), (1.0, 0.25), strict=True)
    for loss, context, weight in losses:
        one = loss(replace(inputs, all_frames=replace(frames, context=context)))
        expected.append(weight * one.total)
        assert one.num_predictions == output.prediction.num_predictions
    assert_close(output.prediction.total, torch.stack(expected).sum(), rtol=1e-12, atol=0)
    assert {"masked_accuracy", "masked_accuracy/b"} <= set(output.prediction.shares)


@pytest.mark.parametrize("output", ["layer", "feedforward"])
def test_heads_at_layers_are_one_of_several_losses(output: str) -> None:
    """They see the same outputs of the same layers as alone."""
    heads = partial(codes, layers=[1, 3], output=output)
    alone = model_of(heads).double()
    both = model_of({"codes": LossTerm(loss=heads, weight=0.5), "contrastive": LossTerm(loss=contrastive)}).double()
    state = {name.replace("loss.", "loss.codes.", 1): value for name, value in alone.state_dict().items()}
    both.load_state_dict(state, strict=False)
    expected, found = (traced(model)[0].prediction for model in (alone, both))
    assert_close(found.terms["codes"], 0.5 * expected.total, rtol=1e-12, atol=0)


class Losing(ContrastiveLoss):
    """Its number of predictions changes."""

    def forward(self, inputs: LossInputs):
        output = super().forward(inputs)
        return replace(output, num_predictions=tuple(number + 1 for number in output.num_predictions))


def test_counts_that_change_during_the_run_are_an_error() -> None:
    model = model_of({"contrastive": W2V_BERT["contrastive"], "other": LossTerm(loss=partial(Losing, num_negatives=4))})
    with pytest.raises(ValueError, match=r"a constant ratio of .*, but that of `other` is 1 before the run"):
        model(BATCH, address(len(BATCH)))


def test_names_of_the_quantizer_are_taken() -> None:
    """Or a term would be overwritten."""
    model = model_of({"kmeans": LossTerm(loss=contrastive)}, quantizer=factory(KMeansQuantizer))
    output = model(BATCH, address(len(BATCH)))
    (name, *_) = output.targets.losses
    taken = model_of({name: LossTerm(loss=contrastive)}, quantizer=factory(KMeansQuantizer))
    with pytest.raises(ValueError, match=f"^The names of losses must not be those of `quantizer`, but `{name}` is"):
        taken.objective_terms(taken(BATCH, address(len(BATCH))))
