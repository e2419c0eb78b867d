"""The representations of a model, which equal those of an ordinary forward pass."""

from __future__ import annotations

import pytest
import torch

from tests.contracts.tiny import address, audio_batch, build_model, factory
from w2vlab.contexts import ConformerContext, ConvContext, GRUContext, TransformerContext
from w2vlab.evaluation.features.extraction import ModelFeatures, as_vectors, read_batches
from w2vlab.evaluation.features.layers import available_representations, select_representations
from w2vlab.masking import NoMasking
from w2vlab.modules import FuturePrediction, MaskedPrediction
from w2vlab.modules.representations import layer_modules
from w2vlab.quantizers import GumbelQuantizer, IdentityQuantizer
from w2vlab.utils.messages import W2VLabWarning

HIDDEN = ("layer 0", "layer 1", "layer 2")
BATCH = audio_batch((800, 700, 430))


@pytest.mark.parametrize(
    ("cls", "context", "hidden"),
    [
        (MaskedPrediction, TransformerContext, HIDDEN),
        (MaskedPrediction, ConformerContext, HIDDEN),
        (FuturePrediction, ConvContext, HIDDEN),
        (FuturePrediction, GRUContext, ()),
    ],
)
def test_representations_of_every_context(cls: type, context: type, hidden: tuple[str, ...]) -> None:
    model = build_model(cls, context=factory(context), quantizer=factory(GumbelQuantizer))
    names = available_representations(model)
    assert names == ("latents", *hidden, "context", "quantized", "codes")
    features = dict(ModelFeatures(model, names)(BATCH))
    assert list(features) == list(BATCH.ids)
    for samples, found in zip(BATCH.num_samples, features.values(), strict=True):
        frames = model.encoder.num_frames(samples)
        assert tuple(found) == names
        assert {name: len(tensor) for name, tensor in found.items()} == dict.fromkeys(names, frames)
        assert found["codes"].shape == (frames, 2)
        assert all(tensor.isfinite().all() for tensor in found.values())
    if hidden:  # the last layer is the context, apart from a norm after it
        found = features[BATCH.ids[0]]
        same = torch.equal(found["layer 2"], found["context"])
        assert same == (context is not TransformerContext or not model.context.pre_norm)


def test_continuous_targets_have_no_codes() -> None:
    model = build_model(MaskedPrediction, quantizer=factory(IdentityQuantizer))
    assert available_representations(model) == ("latents", *HIDDEN, "context")
    with pytest.warns(W2VLabWarning, match=r"`layers` has codes, .*IdentityQuantizer .*: not evaluated"):
        assert select_representations(model, "context,codes") == ("context",)
    with pytest.raises(ValueError, match=r"but has codes: IdentityQuantizer has no codebooks\.$"):
        select_representations(model, "codes")


@pytest.mark.parametrize("cls", [MaskedPrediction, FuturePrediction])
def test_context_equals_an_unmasked_forward_pass(cls: type) -> None:
    torch.manual_seed(0)
    parts = {"masking": NoMasking} if cls is MaskedPrediction else {}
    model = build_model(cls, **parts).eval()
    with torch.no_grad():
        whole = model(BATCH, address(3))
    names = available_representations(model)
    for row, (_, found) in enumerate(ModelFeatures(model, names)(BATCH)):
        expected = whole.context[row, : len(found["context"])]
        assert torch.allclose(found["context"], expected, atol=1e-6)
        if cls is FuturePrediction and "quantized" in found:
            assert torch.equal(found["codes"], whole.targets.assignment[row, : len(found["codes"])])


def test_layer_0_of_quantized_inputs() -> None:
    torch.manual_seed(0)
    model = build_model(MaskedPrediction, inputs="quantized", masking=NoMasking).eval()
    with torch.no_grad():
        whole = model(BATCH, address(3))
    found = dict(ModelFeatures(model, ("context",))(BATCH))[BATCH.ids[0]]["context"]
    assert torch.allclose(found, whole.context[0, : len(found)], atol=1e-6)


def test_padding_and_modes_make_no_difference() -> None:
    model = build_model(MaskedPrediction, feature_dropout=0.3)
    model.train()
    model.encoder.eval()
    modes = [part.training for part in model.modules()]
    before = torch.get_rng_state()
    names = available_representations(model)
    together = dict(ModelFeatures(model, names)(BATCH))
    alone = dict(ModelFeatures(model, names)(audio_batch((430,), first=2)))
    for name in names:
        assert torch.allclose(together["utterance-2"][name].float(), alone["utterance-2"][name].float(), atol=1e-5), (
            name
        )
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layer_modules(model.context))


def test_a_choice_of_layers(model: MaskedPrediction) -> None:
    assert select_representations(model, "all") == available_representations(model)
    assert select_representations(model, "codes, 0,2") == ("layer 0", "layer 2", "codes")
    assert select_representations(model, "context") == ("context",)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("", "`layers` must be all or some of latents, 0, 1, 2, context, quantized, codes, separated .*, but is empty"),
        (" , ", "but is empty"),
        ("3", "but has 3"),
        ("-1", "but has -1"),
        ("0,top", "but has top"),
    ],
)
def test_invalid_layers(layers: str, message: str, model: MaskedPrediction) -> None:
    with pytest.raises(ValueError, match=message):
        select_representations(model, layers)


def test_codes_as_vectors() -> None:
    vectors = as_vectors(torch.tensor([[1, 0], [2, 2]]), 3)
    assert vectors.tolist() == [[0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1]]
    floats = torch.rand(2, 4)
    assert as_vectors(floats, 3) is floats


def test_whole_utterances_are_read_in_batches(corpus) -> None:
    cuts = list(corpus.cuts.values())
    batches = list(read_batches(cuts, batch_seconds=5))
    ids = [name for batch, _ in batches for name in batch.ids]
    assert sorted(ids) == sorted(corpus.cuts)
    for batch, seconds in batches:
        assert len(batch) == 1 or len(batch) * batch.waveform.shape[1] / 16_000 <= 5
        assert seconds == pytest.approx(sum(batch.num_samples) / 16_000)
    for batch, _ in batches:
        for name, samples in zip(batch.ids, batch.num_samples, strict=True):
            assert samples == round(corpus.cuts[name].duration * 16_000)
    assert len(batches) < len(cuts)
    assert list(read_batches(cuts, 5, min_samples=10**6)) == []
