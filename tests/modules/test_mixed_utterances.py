"""WavLM's mixed utterances: the context network sees the mixture, and the targets are those of the clean audio."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.contracts.tiny import address, assert_gradients_finite, audio_batch, build, build_model, classes, factory
from tests.modules.training import NoiselessGumbel, fit, make_batches, make_model
from w2vlab.augmentations import Gain, SpeedPerturbation, UtteranceMixing
from w2vlab.data.batches.augmenting import Augmenter
from w2vlab.encoders import CodeEmbedding, ConvFeatureEncoder, LogMelEncoder
from w2vlab.interfaces import UtteranceTargets, check_augmentations
from w2vlab.losses import CodePredictionLoss
from w2vlab.modules import FuturePrediction, MaskedPrediction
from w2vlab.quantizers import FileTargets, GumbelQuantizer, KMeansQuantizer, RandomProjectionQuantizer
from w2vlab.types import AudioBatch, CleanAudio

LENGTHS = (420, 300, 420, 380, 400)

# Without codebooks the published diversity penalty has nothing to do.
pytestmark = pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")


def mixed(batch: AudioBatch, probability: float = 0.5) -> AudioBatch:
    after = Augmenter([UtteranceMixing(probability)])(batch, address(len(batch)))
    assert after.clean is not None
    assert 0 < len(after.clean.batch) < len(batch) or probability == 1
    return after


def make(quantizer: type, **arguments: Any) -> MaskedPrediction:
    torch.manual_seed(0)
    if issubclass(quantizer, UtteranceTargets):
        arguments |= {"loss": factory(CodePredictionLoss), "penalties": {}}
    return build_model(MaskedPrediction, quantizer=factory(quantizer), **arguments)


@pytest.mark.parametrize("quantizer", classes("quantizer"), ids=lambda cls: cls.__name__)
def test_targets_are_those_of_the_clean_audio(quantizer: type) -> None:
    model = make(quantizer).eval()
    clean = audio_batch(LENGTHS)
    batch = mixed(clean)
    expected, output = (model(one, address(len(clean))) for one in (clean, batch))
    assert torch.equal(output.targets.codes, expected.targets.codes)
    assert_close(output.targets.quantized, expected.targets.quantized)
    for row in range(len(clean)):
        same = torch.allclose(output.context[row], expected.context[row])
        assert same == (row not in batch.clean.rows), "the context network sees the mixture"


@pytest.mark.parametrize(
    ("encoder", "quantizer", "scale"),
    [(factory(ConvFeatureEncoder), GumbelQuantizer, 1), (LogMelEncoder, RandomProjectionQuantizer, 10)],
)
def test_targets_of_another_encoder(encoder: Any, quantizer: type, scale: int) -> None:
    """The second is BEST-RQ's."""
    model = make(quantizer, target_encoder=encoder, target_gradient=quantizer is GumbelQuantizer).eval()
    clean = audio_batch(tuple(scale * length for length in LENGTHS))
    expected, output = (model(one, address(len(clean))) for one in (clean, mixed(clean)))
    assert torch.equal(output.targets.codes, expected.targets.codes)
    assert not torch.allclose(output.context, expected.context)


def test_only_mixed_utterances_are_encoded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = make(GumbelQuantizer), []
    encode = ConvFeatureEncoder.forward
    monkeypatch.setattr(
        ConvFeatureEncoder,
        "forward",
        lambda self, waveform, *args: sizes.append(len(waveform)) or encode(self, waveform, *args),
    )
    batch = mixed(audio_batch(LENGTHS))
    model(batch, address(len(batch)))
    assert sizes == [len(batch), len(batch.clean.batch)]


@pytest.mark.parametrize("quantizer", [GumbelQuantizer, KMeansQuantizer, FileTargets])
def test_every_parameter_learns(quantizer: type) -> None:
    model = make(quantizer)
    batch = mixed(audio_batch(LENGTHS), probability=1)
    output = model(batch, address(len(batch)))
    torch.stack(list(model.objective_terms(output).values())).sum().backward()
    assert_gradients_finite(model)


def test_the_gradient_of_the_targets_reaches_the_encoder_by_the_clean_audio() -> None:
    model = make(GumbelQuantizer)
    batch = mixed(audio_batch(LENGTHS), probability=1)
    batch.waveform.requires_grad_()
    batch.clean.batch.waveform.requires_grad_()
    quantized = model(batch, address(len(batch))).targets.quantized
    of_mixture, of_clean = torch.autograd.grad(
        quantized.square().sum(), [batch.waveform, batch.clean.batch.waveform], allow_unused=True
    )
    assert of_mixture is None or not of_mixture.any()
    assert of_clean.any()


@pytest.mark.parametrize(
    ("module", "augmentation", "message"),
    [
        (
            lambda: build_model(FuturePrediction),
            UtteranceMixing,
            r"must not have UtteranceMixing under FuturePrediction, whose targets would be those of the mixed audio\.",
        ),
        (
            lambda: make(FileTargets),
            SpeedPerturbation,
            r"must not have SpeedPerturbation with units of a file \(model\.quantizer\): at another speed",
        ),
        (
            lambda: build_model(MaskedPrediction, encoder=factory(CodeEmbedding)),
            SpeedPerturbation,
            r"must not have SpeedPerturbation with units of a file \(model\.encoder\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_a_training(module: Any, augmentation: type, message: str) -> None:
    data = SimpleNamespace(augmentations=[build(Gain), build(augmentation)])
    model: Any = module()
    model._trainer = SimpleNamespace(datamodule=data, checkpoint_callbacks=[], ckpt_path=None)
    with pytest.raises(ValueError, match=r"`data\.augmentations` " + message):
        model.on_fit_start()


def test_what_fits() -> None:
    for model in (make(GumbelQuantizer), make(FileTargets)):
        check_augmentations([UtteranceMixing(), Gain()], model, model.targets_follow_clean_audio)
    check_augmentations([SpeedPerturbation()], build_model(FuturePrediction), False)


def test_an_accumulated_update_has_the_statistics_of_the_clean_targets() -> None:
    """The diversity penalty of a global batch is of the same targets in its pass ahead."""

    def run(batches: list[AudioBatch], size: int) -> dict[str, torch.Tensor]:
        model = make_model(MaskedPrediction, NoiselessGumbel, diversity=True)
        fit(model, batches, 1, size)
        return dict(model.named_parameters())

    (whole,) = make_batches(1, 1, 4)
    whole = Augmenter([UtteranceMixing(1.0)])(whole, address(4))
    halves = [_rows(whole, (0, 1)), _rows(whole, (2, 3))]
    assert_close(run(halves, 2), run([whole], 1), rtol=1e-4, atol=1e-5)


def _rows(batch: AudioBatch, rows: tuple[int, ...]) -> AudioBatch:
    def take(one: AudioBatch) -> AudioBatch:
        return AudioBatch(
            waveform=one.waveform[list(rows)],
            num_samples=tuple(one.num_samples[row] for row in rows),
            ids=tuple(one.ids[row] for row in rows),
        )

    assert batch.clean.rows.tolist() == list(range(len(batch)))
    return replace(take(batch), clean=CleanAudio(batch=take(batch.clean.batch), rows=torch.arange(len(rows))))
