"""Codes predicted from the layers of the context network, a head for each, against loops over frames and codebooks."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contracts.tiny import address, audio_batch, build_model, factory
from w2vlab.contexts import ConformerContext, ConvContext, TransformerContext
from w2vlab.losses import CodePredictionLoss
from w2vlab.losses.code_scores import CosineScores
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule, TeacherPrediction
from w2vlab.quantizers import EMAQuantizer, RandomProjectionQuantizer
from w2vlab.teachers import EMATeacher
from w2vlab.types import AllFrames, LossInputs, QuantizerOutput, RandomAddress, TargetSpec

SPEC = TargetSpec(dim=2, num_codebooks=3, codebook_size=5)
FRAMES, TARGETS = (7, 4), ((1, 2, 5), (0,))
LAYERS = [2, -1, 2]
"""Of each codebook; two have the same."""


def inputs_of() -> LossInputs:
    """All frames and the masked ones of two utterances, with other vectors in each layer; garbage in the padding."""
    torch.manual_seed(0)
    context, second, last = (torch.randn(2, 7, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    codes = torch.randint(0, 5, (2, 7, 3))
    every = QuantizerOutput(quantized=codes.double(), codes=codes)
    positions = torch.tensor([[1, 2, 5], [0, 0, 0]])
    layers = {2: second, -1: last}

    def masked(frames: Tensor) -> Tensor:
        return frames.gather(1, positions[..., None].expand(-1, -1, 4))

    return LossInputs(
        context=masked(context),
        targets=every.at(positions),
        num_targets=(3, 1),
        address=RandomAddress(seed=1, update=0, ids=("a", "b")),
        first_ahead=0,
        all_frames=AllFrames(targets=every, num_frames=FRAMES, positions=positions, context=context, layers=layers),
        layers={number: masked(layer) for number, layer in layers.items()},
    )


def logits_of(loss: CodePredictionLoss, book: int, frame: Tensor) -> Tensor:
    scores = loss.code_scores
    if isinstance(scores, CosineScores):
        rows = slice(3 * book, 3 * book + 3)
        projected = scores.projection.weight[rows] @ frame + scores.projection.bias[rows]
        entries = scores.embeddings[book]
        return (entries @ projected) / (entries.norm(dim=-1) * projected.norm()) / 0.1
    rows = slice(5 * book, 5 * book + 5)
    return scores.weight[rows] @ frame + scores.bias[rows]


def by_loops(loss: CodePredictionLoss, inputs: LossInputs, unmasked_weight: float) -> tuple[Tensor, int]:
    frames = inputs.all_frames
    terms, correct = [], 0
    for row, length in enumerate(FRAMES):
        for frame in range(length):
            weight = 1.0 if frame in TARGETS[row] else unmasked_weight
            for book, layer in enumerate(LAYERS):
                logits = logits_of(loss, book, frames.layers[layer][row, frame])
                code = int(frames.targets.codes[row, frame, book])
                terms.append(weight * (logits.exp().sum().log() - logits[code]))
                correct += int(logits.argmax() == code) if weight else 0
    return torch.stack(terms).sum(), correct


@pytest.mark.parametrize("unmasked_weight", [0.0, 0.5])
@pytest.mark.parametrize("similarity", ["linear", "cosine"])
def test_each_codebook_is_predicted_from_its_layer(similarity: str, unmasked_weight: float) -> None:
    options = {"projection_dim": 3} if similarity == "cosine" else {}
    torch.manual_seed(1)
    loss = CodePredictionLoss(
        4, SPEC, similarity=similarity, unmasked_weight=unmasked_weight, layers=LAYERS, **options
    ).double()
    assert loss.context_layers == (2, -1)
    inputs = inputs_of()
    layers = list(inputs.all_frames.layers.values())
    wanted = [*layers, *loss.parameters()]
    output, (expected, correct) = loss(inputs), by_loops(loss, inputs, unmasked_weight)
    assert_close(output.total, expected, rtol=1e-12, atol=0)
    assert output.num_correct == correct
    assert output.num_predictions == ((21, 12) if unmasked_weight else (9, 3))
    ours = torch.autograd.grad(output.total, [*wanted, inputs.all_frames.context], allow_unused=True)
    for found, reference in zip(ours, torch.autograd.grad(expected, wanted), strict=False):
        assert_close(found, reference, rtol=1e-10, atol=1e-14)
    of_contexts = ours[-1]
    assert of_contexts is None or not of_contexts.any()  # None: only the masked ones are in the graph


@pytest.mark.parametrize("similarity", ["linear", "cosine"])
def test_heads_of_the_same_vectors_score_as_one(similarity: str) -> None:
    torch.manual_seed(1)
    scores = CodePredictionLoss(4, SPEC, similarity=similarity, layers=LAYERS).double().code_scores
    contexts = torch.randn(2, 6, 4, dtype=torch.float64)
    assert_close(scores([contexts] * 3), scores(contexts), rtol=1e-12, atol=1e-12)


def model_of(layers: list[int] | None, cls: type = MaskedPrediction, **options: object) -> PretrainingModule:
    torch.manual_seed(0)
    parts = {
        "quantizer": factory(RandomProjectionQuantizer),
        "loss": partial(CodePredictionLoss, layers=layers),
        "context": factory(TransformerContext, num_layers=4, pre_norm=True),
        "penalties": {},
    }
    return build_model(cls, **(parts | options))


@pytest.mark.parametrize("context", [TransformerContext, ConformerContext])
@pytest.mark.parametrize("layers", [[1, 4], [3, -1]])
def test_layers_of_a_model_are_those_of_the_numbers(context: type, layers: list[int]) -> None:
    model = model_of(layers, context=factory(context, num_layers=4)).eval()
    batch, where = audio_batch((420, 360)), address(2)
    seen: dict[int, Tensor] = {}
    for number, layer in enumerate(model.context.layers, 1):
        layer.register_forward_hook(lambda _, __, out, number=number: seen.update({number: out}))
    output = model(batch, where)
    frames = torch.arange(2)[:, None], output.mask.targets
    total = 0.0
    for row, count in enumerate(output.mask.num_targets):
        for index in range(count):
            for book, number in enumerate(layers):
                layer = seen[number if number > 0 else 5 + number]
                logits = logits_of(model.loss, book, layer[frames][row, index])
                total += math.log(logits.double().exp().sum()) - logits[output.targets.codes[row, index, book]].item()
    assert output.prediction.total.item() == pytest.approx(total, rel=1e-5)


def test_a_head_trains_its_layer_and_those_below() -> None:
    model = model_of([2, 4])
    model.loss.code_scores.weight.data[5:] = 0  # the head of layer 4 does not look at it
    model.loss.code_scores.bias.data[5:] = 0
    model(audio_batch((420, 360)), address(2)).prediction.total.backward()
    for number, layer in enumerate(model.context.layers, 1):
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, f"{name} of layer {number}: DDP would wait for ever"
            assert bool(parameter.grad.any()) == (number <= 2) or name.endswith("in_proj_bias"), (number, name)
    assert not model.context.norm.weight.grad.any()  # after the last layer, in a network with norms before


def test_teachers_clusters_are_predicted_from_layers() -> None:
    model = model_of(
        [-2, -1],
        TeacherPrediction,
        teacher=partial(EMATeacher, layers=2, combine="concatenate"),
        quantizer=factory(EMAQuantizer, num_codebooks=2),
    )
    model(audio_batch((420, 360)), address(2)).prediction.total.backward()
    trained = {name.split(".")[0] for name, one in model.named_parameters() if one.grad is not None and one.grad.any()}
    assert trained == {"encoder", "norm", "context", "loss", "mask_embedding"}


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ([4], {}, r"^`layers` must have a number for each of the 2 codebooks of `quantizer`, but is \[4\]\."),
        ([], {}, r"^`layers` must have a number for each of the 2 codebooks"),
        ([5, 4], {}, r"^`loss\.layers` must be from 1 to 4 .* but is 5\."),
        ([0, 4], {}, r"^`loss\.layers` must be from 1 to 4 .* but is 0\."),
        ([1, 3], {}, r"^`loss\.layers` must include the last layer of `context`, 4, but are 1, 3: no loss would "),
        ([1, -2], {}, r"but are 1, -2: no loss would train those after 3\. .* `context.num_layers` to 3\.$"),
        ([1, 2], {"context": factory(ConvContext)}, r"^`context` must be a sequence of layers .* but is ConvContext\."),
    ],
)
def test_layers_that_do_not_fit_are_errors(layers: list[int], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_of(layers, **options)


def test_contexts_that_see_their_own_frame_have_no_layers() -> None:
    message = r"^`loss` must predict from the contexts under FuturePrediction, but its `layers` are 1, 2\."
    with pytest.raises(ValueError, match=message):
        model_of([1, 2], FuturePrediction, context=factory(ConvContext))


def test_codes_can_be_predicted_from_feedforward_outputs() -> None:
    """SpidR: what a layer gives to its head is what the layers give, run one by one, and it is what is trained."""
    model = model_of(
        None,
        TeacherPrediction,
        teacher=partial(EMATeacher, layers=2, combine="concatenate"),
        quantizer=factory(EMAQuantizer, num_codebooks=2),
        context=factory(TransformerContext, num_layers=2),
        loss=partial(CodePredictionLoss, layers=[1, -1], output="feedforward"),
    ).eval()
    frames = torch.randn(2, 6, model.context.model_dim)
    context, layers = model.contexts_of(frames, None)
    expected = model.context.norm(model.context.add_positions(frames, None))
    for number, layer in zip((1, -1), model.context.layers, strict=True):
        expected, feedforward = layer(expected, None, True)
        assert_close(layers[number], feedforward)
    assert_close(context, expected)
    model(audio_batch((420, 360)), address(2)).prediction.total.backward()
    assert [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None] == []
    first, last = model.context.layers
    assert first.feedforward_norm.weight.grad.any()
    assert not last.feedforward_norm.weight.grad.any()  # no head sees what follows it


def test_feedforward_outputs_need_layers() -> None:
    with pytest.raises(ValueError, match="`output` must be layer without `layers`, but is feedforward"):
        CodePredictionLoss(4, SPEC, output="feedforward")


def test_a_layer_that_is_left_out_has_a_feedforward_output_that_no_layer_sees() -> None:
    torch.manual_seed(0)
    options = {"model_dim": 8, "num_layers": 3, "num_heads": 2, "feedforward_dim": 12, "position_groups": 2}
    dropouts = dict.fromkeys(("dropout", "attention_dropout", "input_dropout"), 0.0)
    network = TransformerContext(8, **options, **dropouts, layer_drop=0.5).train()
    network.layers.dropped = (False, True, False)
    frames = torch.randn(2, 6, 8)
    context, layers = network.forward_layers(frames, None, {1, 2, 3}, feedforward=True)
    first, _ = network.layers[0](network.norm(network.add_positions(frames, None)), None, True)
    assert_close(layers[2], network.layers[1](first, None, True)[1])
    assert_close(context, network.layers[2](first, None))
    (context.sum() + sum(one.square().sum() for one in layers.values())).backward()
    assert all(one.grad is not None for one in network.layers.parameters())
    assert not network.layers[1].feedforward_norm.weight.grad.any()
    assert network.layers[1].feedforward[0].weight.grad.any()
