"""`features` and `codes`: what an ordinary forward pass gives, in pieces, padded, and from any kind of tensor."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.contracts.tiny import WIDTH, audio_batch, build_model, factory
from w2vlab.contexts import ConformerContext, ConvContext, GRUContext, TransformerContext
from w2vlab.encoders import ConvFeatureEncoder, LogMelEncoder
from w2vlab.modules import CTCFineTuning, FuturePrediction, MaskedPrediction, PretrainingModule, frontend
from w2vlab.modules.finetuning.pretrained import Pretrained
from w2vlab.modules.finetuning.recognition import Recognizer
from w2vlab.modules.representations import groups, layer_modules, mixin
from w2vlab.quantizers import GumbelQuantizer, IdentityQuantizer, KMeansQuantizer
from w2vlab.types import AudioBatch

LENGTHS = (800, 430, 700, 700)
BATCH = audio_batch(LENGTHS)
LAYERS = [(WIDTH, 10, 5), (WIDTH, 3, 2)]
LARGE = {"normalization": "layer", "bias": True, "normalize_waveform": True}

MODELS: dict[str, dict[str, Any]] = {
    "base": {"cls": MaskedPrediction},
    "large": {
        "cls": MaskedPrediction,
        "encoder": partial(ConvFeatureEncoder, layers=LAYERS, **LARGE),
        "context": factory(TransformerContext, pre_norm=True),
    },
    "quiet": {
        "cls": MaskedPrediction,
        "encoder": partial(ConvFeatureEncoder, layers=LAYERS, **LARGE, waveform_eps=0.05),  # as large as the variance
    },
    "skips": {
        "cls": MaskedPrediction,
        "encoder": partial(ConvFeatureEncoder, LAYERS, skip_connections=True, log_compression=True, bias=True),
    },
    "conformer": {"cls": MaskedPrediction, "context": factory(ConformerContext)},
    "quantized inputs": {
        "cls": MaskedPrediction,
        "inputs": "quantized",
        "input_quantizer": factory(KMeansQuantizer),
    },
    "two encoders": {
        "cls": MaskedPrediction,
        "target_encoder": partial(ConvFeatureEncoder, layers=LAYERS),
    },
    "log-mel": {"cls": MaskedPrediction, "encoder": factory(LogMelEncoder)},
    "wav2vec": {"cls": FuturePrediction, "encoder": partial(ConvFeatureEncoder, LAYERS, "group")},
    "vq-wav2vec": {
        "cls": FuturePrediction,
        "encoder": partial(ConvFeatureEncoder, LAYERS, "group", log_compression=True),
        "quantizer": factory(KMeansQuantizer),
        "context": factory(ConvContext),
    },
    "cpc": {"cls": FuturePrediction, "context": factory(GRUContext), "quantizer": factory(GumbelQuantizer)},
}


def build(name: str) -> PretrainingModule:
    torch.manual_seed(0)
    arguments = dict(MODELS[name])
    model = build_model(arguments.pop("cls"), **arguments)
    with torch.no_grad():
        for parameter in model.parameters():  # so that no offset of a norm is zero
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


def ordinary(model: PretrainingModule, batch: AudioBatch) -> tuple[dict[int | None, Tensor], Tensor]:
    """Contexts and layers, and codes, of a forward pass in one piece and without inference mode."""
    model.eval()
    found: dict[int | None, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _, args, output, number=number: found.update({number: output}))
        for number, layer in enumerate(layer_modules(model.context), start=1)
    ]
    for layer in layer_modules(model.context)[:1]:
        hooks.append(layer.register_forward_pre_hook(lambda _, args: found.update({0: args[0]})))
    with torch.no_grad():
        encoding = model.encode(batch)
        frames = model.context.project(model.context_inputs(encoding))
        found[None] = model.context(frames, encoding.padding_mask)
        codes = model.quantize(batch, encoding).assignment
    for hook in hooks:
        hook.remove()
    return found, codes


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pad", [False, True], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize("frames_of_a_piece", [7, 256])
def test_features_and_codes_of_an_ordinary_forward_pass(
    name: str, pad: bool, frames_of_a_piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "FRAMES_OF_A_PIECE", frames_of_a_piece)
    monkeypatch.setattr(
        mixin, "groups_of_utterances", lambda lengths, pad: groups.groups_of_utterances(lengths, given_pad)
    )
    given_pad = pad
    model = build(name)
    expected, codes = ordinary(model, BATCH)
    garbage = BATCH.waveform.clone()
    for row, length in enumerate(LENGTHS):
        garbage[row, length:] = float("nan")  # which nothing may read
    contexts = model.features(garbage, LENGTHS)
    every = model.features(garbage, LENGTHS, "all") if layer_modules(model.context) else {}
    found_codes = model.codes(garbage, torch.tensor(LENGTHS)) if model.quantizer.num_codebooks else None
    assert list(every) == [
        number for number in sorted(expected, key=lambda n: -1 if n is None else n) if number is not None
    ]
    for row, length in enumerate(LENGTHS):
        frames = model.num_frames(length)
        assert torch.allclose(contexts[row, :frames], expected[None][row, :frames], atol=1e-5)
        assert not contexts[row, frames:].any()
        for number, layer in every.items():
            assert torch.allclose(layer[row, :frames], expected[number][row, :frames], atol=1e-5), number
            assert not layer[row, frames:].any()
        if found_codes is not None:
            assert torch.equal(found_codes[row, :frames], codes[row, :frames])
            assert (found_codes[row, frames:] == -1).all()
    assert contexts.shape == (4, model.num_frames(800), model.context.output_dim)


@settings(max_examples=30, deadline=None)
@given(
    num_samples=st.integers(20, 1500),
    frames_of_a_piece=st.integers(1, 60),
    name=st.sampled_from(["base", "large", "quiet", "skips"]),
)
def test_pieces_of_any_length(num_samples: int, frames_of_a_piece: int, name: str) -> None:
    model = build(name)
    batch = audio_batch((num_samples,))
    expected, codes = ordinary(model, batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frontend, "FRAMES_OF_A_PIECE", frames_of_a_piece)
        pieces = list(model.encoder.pieces(batch.waveform, frames_of_a_piece))
        assert torch.allclose(model.features(batch.waveform), expected[None], atol=1e-5)
        assert torch.equal(model.codes(batch.waveform), codes)
    assert max(piece.shape[1] for piece in pieces) <= frames_of_a_piece
    assert torch.allclose(torch.cat(pieces, dim=1), model.encoder(batch.waveform, (num_samples,)), atol=1e-5)


def test_modes_hooks_gradients_and_random_numbers_are_left_alone() -> None:
    model = build("base")
    model.train()
    model.encoder.eval()
    model.context.layers.set_update(0)
    modes = [part.training for part in model.modules()]
    state = torch.get_rng_state()
    waveform = BATCH.waveform[0].requires_grad_()
    layers = model.features(waveform, layers=[1])
    assert torch.equal(model.codes(waveform), model.codes(waveform)), "noise"
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layer_modules(model.context))
    assert all(parameter.grad is None for parameter in model.parameters())
    # The outputs have no graph, and can be used in another one.
    assert not layers[1].requires_grad
    probe = nn.Linear(WIDTH, 2)
    probe(layers[1]).sum().backward()
    assert probe.weight.grad is not None


def test_an_error_inside_restores_modes_and_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("base").train()
    monkeypatch.setattr(model.context, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.features(BATCH.waveform, layers="all")
    assert all(part.training for part in model.modules())
    assert not any(layer._forward_hooks for layer in layer_modules(model.context))


def test_layers_above_the_highest_one_are_not_computed() -> None:
    model = build("base")
    calls: list[int] = []
    for number, layer in enumerate(layer_modules(model.context), start=1):
        layer.register_forward_hook(lambda *_, number=number: calls.append(number))
    assert list(model.features(BATCH.waveform, layers=[1, 0])) == [0, 1]
    assert set(calls) == {1}
    calls.clear()
    model.features(BATCH.waveform, layers=(0,))
    assert calls == []


def test_a_waveform_is_a_batch_of_one() -> None:
    model = build("base")
    waveform = BATCH.waveform[0]
    assert torch.equal(model.features(waveform), model.features(waveform[None]))
    assert torch.equal(model.codes(waveform, 700), model.codes(waveform[None, :700]))
    assert model.num_frames(700) == model.codes(waveform, 700).shape[1]
    assert model.num_frames(3) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_type_of_floats(dtype: torch.dtype) -> None:
    model = build("base")
    waveform = BATCH.waveform.to(dtype)
    features = model.features(waveform, LENGTHS)
    assert features.dtype == torch.float32
    assert torch.equal(features, model.features(waveform.float(), LENGTHS))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["base", "large", "wav2vec"])
def test_models_of_other_types(name: str, dtype: torch.dtype) -> None:
    model = build(name).to(dtype)
    features = model.features(BATCH.waveform, LENGTHS)
    assert features.dtype == dtype
    tolerance = 0.2 if dtype == torch.bfloat16 else 1e-5
    assert torch.allclose(features.float(), build(name).features(BATCH.waveform, LENGTHS), atol=tolerance)


@pytest.mark.parametrize(
    ("waveform", "options", "message"),
    [
        (
            torch.zeros(1, 100, dtype=torch.int16),
            {},
            r"must be floats in \[-1, 1\], but is int16\. Divide .* by 32768\.$",
        ),
        (torch.zeros(1, 1, 100), {}, r"must have shape \(S,\) or \(B, S\), but has shape \(1, 1, 100\)\. Take one"),
        (torch.zeros(0, 100), {}, r"but has shape \(0, 100\)"),
        (
            torch.zeros(100),
            {"sample_rate": 8000},
            r"`sample_rate` must be 16000, but is 8000\. .*resample\(waveform, 8000",
        ),
        (torch.zeros(19), {}, r"`waveform` must have at least 20 samples \(the receptive field\), but has 19\.$"),
        (torch.zeros(2, 100), {"num_samples": [100, 19]}, r"from 20 .* to 100 .*, but is 19 for utterance 1\.$"),
        (torch.zeros(2, 100), {"num_samples": [101, 100]}, "but is 101 for utterance 0"),
        (torch.zeros(2, 100), {"num_samples": [100]}, r"one length for each of 2 utterances, but has 1\.$"),
        (torch.zeros(1, 100), {"num_samples": [50.0]}, r"must be integers, one for each utterance, but is \[50\.0\]"),
        (torch.zeros(1, 100), {"num_samples": torch.ones(1)}, r"but is of type float32 and shape \(1,\)"),
        (torch.full((2, 100), float("nan")), {}, "must be finite, but utterance 0 has NaN or infinity"),
        (torch.full((100,), float("-inf")), {}, "must be finite"),
    ],
)
def test_audio_that_is_refused(waveform: Tensor, options: dict[str, Any], message: str) -> None:
    model = build("base")
    for method in (model.features, model.codes):
        with pytest.raises(ValueError, match=message):
            method(waveform, **options)


def test_an_array_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a tensor of floats.*ndarray\. Use torch.as_tensor"):
        build("base").features(BATCH.waveform.numpy())


@pytest.mark.parametrize("layers", [3, [3], [-1], [], "top", [True], [1.0], ["1"]])
def test_layers_that_are_refused(layers: Any) -> None:
    with pytest.raises(ValueError, match=r'`layers` must be "all" or numbers from 0 to 2, such as \[0, 2\], but is'):
        build("base").features(BATCH.waveform, LENGTHS, layers)


def test_what_a_model_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`layers` must be None for GRUContext, which is not a sequence of layers"):
        build("cpc").features(BATCH.waveform, LENGTHS, "all")
    model = build_model(MaskedPrediction, quantizer=factory(IdentityQuantizer))
    with pytest.raises(ValueError, match=r"must have codebooks for `codes`, but this MaskedPrediction has Ident"):
        model.codes(BATCH.waveform)


@pytest.mark.parametrize("name", ["base", "quantized inputs"])
def test_a_fine_tuned_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name)
    pretrained = Pretrained(model.frontend(), model.context, model.mask_embedding, {"class_path": "MaskedPrediction"})
    monkeypatch.setattr("w2vlab.modules.finetuning.ctc.read_pretrained", lambda *_, **__: pretrained)
    recognizer = CTCFineTuning("model.ckpt")
    assert isinstance(recognizer, Recognizer)
    assert torch.equal(recognizer.features(BATCH.waveform, LENGTHS), model.features(BATCH.waveform, LENGTHS))
    assert list(recognizer.features(BATCH.waveform, LENGTHS, [2])) == [2]
    if name == "base":
        with pytest.raises(ValueError, match="but this CTCFineTuning has no quantizer"):
            recognizer.codes(BATCH.waveform)
    else:  # the inputs of its context network
        with torch.no_grad():
            inputs = model.eval().input_quantizer(model.encode(BATCH).latents, model.encode(BATCH).padding_mask)
        frames = model.num_frames(LENGTHS[0])
        assert torch.equal(recognizer.codes(BATCH.waveform, LENGTHS)[0, :frames], inputs.codes[0, :frames])


def test_groups() -> None:
    limits = SimpleNamespace(cpu=groups.SAMPLES_ON_CPU, gpu=groups.SAMPLES_ON_GPU)
    assert list(groups.groups_of_utterances((30, 10, 30, 20), pad=False)) == [[1], [3], [0, 2]]
    assert list(groups.groups_of_utterances((30, 10, 30, 20), pad=True)) == [[1, 3, 0, 2]]
    half = limits.cpu // 2
    assert list(groups.groups_of_utterances((half,) * 3, pad=False)) == [[0, 1], [2]]
    assert list(groups.groups_of_utterances((5, limits.gpu + 1, limits.gpu), pad=True)) == [[0], [2], [1]]
