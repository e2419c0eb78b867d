"""Table 4 of wav2vec 2.0: what the context network sees, what it predicts, and which gradient goes where."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.contracts.tiny import address, assert_gradients_finite, audio_batch, build_model, factory
from w2vlab.encoders import ConvFeatureEncoder, LogMelEncoder
from w2vlab.losses import CodePredictionLoss
from w2vlab.modules import MaskedPrediction
from w2vlab.quantizers import GumbelQuantizer, IdentityQuantizer, KMeansQuantizer, RandomProjectionQuantizer
from w2vlab.types import PretrainOutput

QUANTIZED = {"inputs": "quantized"}
SEPARATE = {"inputs": "quantized", "input_quantizer": factory(GumbelQuantizer)}
CONTINUOUS = {"quantizer": IdentityQuantizer}
OTHER_ENCODER = {"target_encoder": factory(ConvFeatureEncoder)}
ROWS = {
    "continuous, quantized": {},
    "quantized, quantized": QUANTIZED,
    "quantized by its own quantizer, quantized": SEPARATE,
    "quantized, continuous": SEPARATE | CONTINUOUS,
    "continuous, continuous": CONTINUOUS,
    "continuous, continuous of another encoder": CONTINUOUS | OTHER_ENCODER,
    "no gradient from the targets": {"target_gradient": False},
}

# Without codebooks the published diversity penalty has nothing to do.
pytestmark = pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")


def build(**arguments) -> MaskedPrediction:
    torch.manual_seed(0)
    return build_model(MaskedPrediction, **arguments)


def run(model: MaskedPrediction) -> PretrainOutput:
    batch = audio_batch((420, 300))
    return model(batch, address(2))


def gradients(value: Tensor, module: nn.Module) -> Tensor:
    """The sum of the sizes of all gradients of `value` with respect to the parameters of `module`."""
    found = torch.autograd.grad(value.square().sum(), list(module.parameters()), allow_unused=True, retain_graph=True)
    return sum((g.abs().sum() for g in found if g is not None), torch.zeros(()))


@pytest.mark.parametrize("row", ROWS)
def test_every_parameter_learns(row: str) -> None:
    model = build(**ROWS[row])
    output = run(model)
    torch.stack(list(model.objective_terms(output).values())).sum().backward()
    assert_gradients_finite(model)


@pytest.mark.parametrize("row", [row for row in ROWS if row.startswith("quantized")])
def test_the_context_network_sees_quantized_frames(row: str) -> None:
    model = build(**ROWS[row]).eval()
    output = run(model)
    quantizer = model.input_quantizer or model.quantizer
    batch = audio_batch((420, 300))
    latents = model.norm(model.encoder(batch.waveform, batch.num_samples))
    seen = quantizer(latents).quantized
    assert_close(output.inputs.quantized, seen)
    frames = output.mask.hide(model.context.project(seen), model.mask_embedding)
    padding = torch.arange(latents.shape[1])[None] >= torch.tensor(output.num_frames)[:, None]
    assert_close(output.context, model.context(frames, padding))


def test_one_quantizer_serves_inputs_and_targets_unless_the_inputs_have_their_own() -> None:
    shared, separate = build(**QUANTIZED), build(**SEPARATE)
    assert shared.input_quantizer is None
    assert gradients(run(shared).context, shared.quantizer) > 0
    output = run(separate)
    assert gradients(output.context, separate.quantizer) == 0
    assert gradients(output.context, separate.input_quantizer) > 0
    assert gradients(output.targets.quantized, separate.input_quantizer) == 0


def test_losses_of_the_quantizer_of_the_inputs_count() -> None:
    model = build(inputs="quantized", input_quantizer=factory(KMeansQuantizer))
    output = run(model)
    terms = model.objective_terms(output)
    losses = output.inputs.losses["kmeans"]
    means = torch.stack([losses[row, :frames].mean() for row, frames in enumerate(output.num_frames)])
    expected = (means * torch.tensor(output.prediction.num_predictions)).sum()
    assert_close(terms["input_kmeans"], expected)


def test_gradient_from_the_targets_to_the_encoder_can_be_stopped() -> None:
    assert gradients(run(model := build()).targets.quantized, model.encoder) > 0
    stopped = build(target_gradient=False)
    output = run(stopped)
    assert not gradients(output.targets.quantized, stopped.encoder)
    assert gradients(output.targets.quantized, stopped.quantizer) > 0
    assert gradients(output.context, stopped.encoder) > 0


def test_targets_of_another_encoder() -> None:
    model = build(**CONTINUOUS, **OTHER_ENCODER)
    output = run(model)
    assert gradients(output.targets.quantized, model.encoder) == 0
    assert gradients(output.targets.quantized, model.target_encoder) > 0
    assert gradients(output.context, model.target_encoder) == 0


def test_targets_of_another_frame_rate_are_those_of_the_nearest_frame() -> None:
    """Frames of 20 samples every 10, with targets of frames of 26 every 15: the middles decide."""
    model = build(target_encoder=partial(factory(ConvFeatureEncoder), layers=[(8, 16, 5), (8, 3, 3)])).eval()
    encoder, other = model.encoder, model.target_encoder
    assert (encoder.receptive_field, encoder.stride) == (20, 10)
    assert (other.receptive_field, other.stride) == (26, 15)
    batch = audio_batch((420, 300))
    every = model.target_norm(other(batch.waveform, batch.num_samples))
    expected = model.quantizer(every)
    codes = model.quantize(batch).codes
    targets = model.prepare(batch, address(2))
    for row, samples in enumerate(batch.num_samples):
        frames, last = encoder.num_frames(samples), other.num_frames(samples) - 1
        nearest = [min(range(last + 1), key=lambda u: abs(15 * u + 13 - (10 * t + 10))) for t in range(frames)]
        assert nearest[-1] == last
        assert torch.equal(codes[row, :frames], expected.codes[row, nearest])
        positions = targets.mask.targets[row, : targets.num_targets[row]]
        assert torch.equal(targets.targets.codes[row, : len(positions)], codes[row, positions])
    assert torch.equal(model.codes(batch.waveform, batch.num_samples)[0], codes[0])
    assert torch.equal(model.codes(batch.waveform, batch.num_samples)[1, : encoder.num_frames(300)], codes[1, :29])
    assert (model.codes(batch.waveform, batch.num_samples)[1, 29:] == -1).all()
    assert model.min_samples == encoder.receptive_field + (model.min_frames - 1) * encoder.stride
    wide = build(target_encoder=partial(factory(ConvFeatureEncoder), layers=[(8, 900, 5)]))
    assert wide.min_samples == 900


def test_fixed_targets_are_the_frames_of_an_encoder_without_parameters() -> None:
    """BEST-RQ: nothing before the quantizer is trained, so that weight decay cannot move the targets either."""
    mel = {"window_samples": 15, "hop_samples": 5, "stack": 2, "num_mels": 4}  # 20 samples every 10, as the inputs
    model = build(
        target_encoder=partial(LogMelEncoder, **mel),
        target_gradient=False,
        quantizer=factory(RandomProjectionQuantizer, normalize=False),
        loss=CodePredictionLoss,
        penalties={},
    )
    assert model.target_norm is None
    assert not [name for name in model.state_dict() if name.startswith("target_")]
    batch = audio_batch((420, 300))
    before = model.quantize(batch).codes
    assert torch.equal(before, model.quantizer(LogMelEncoder(**mel)(batch.waveform, batch.num_samples)).codes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        output = run(model)
        torch.stack(list(model.objective_terms(output).values())).sum().backward()
        assert_gradients_finite(model)
        optimizer.step()
    assert torch.equal(model.quantize(batch).codes, before)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="`target_gradient` must be true for a `target_encoder` with parameters"):
        build(**OTHER_ENCODER, target_gradient=False)
    with pytest.raises(ValueError, match="`input_quantizer` must be given if `target_encoder` is, but is None"):
        build(**OTHER_ENCODER, **QUANTIZED)


def test_a_quantizer_of_inputs_that_are_continuous_has_no_effect() -> None:
    with pytest.warns(UserWarning, match="`input_quantizer` has no effect: `inputs` is continuous"):
        model = build(input_quantizer=factory(GumbelQuantizer))
    assert model.input_quantizer is None
