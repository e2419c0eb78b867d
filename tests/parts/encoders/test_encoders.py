"""Every layout of the convolutional encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import w2vlab.encoders
from tests.contracts.tiny import OnlyFloat64, audio_batch
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.utils.messages import W2VLabWarning

LAYERS = [(6, 10, 5), (6, 8, 4), (6, 4, 2)]
LAYOUTS = {
    "base": {"normalization": "first_group"},
    "large": {"normalization": "layer", "bias": True, "normalize_waveform": True},
    "wav2vec": {
        "normalization": "group",
        "activation": "relu",
        "log_compression": True,
        "skip_connections": True,
    },
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)
FRAGMENTS = Path(__file__).parents[3] / "configs" / "encoder"

PUBLISHED = {  # receptive field, stride, width
    "log_mel": (560, 320, 160),
    "receptive_field_30ms": (480, 320, 512),
    "vq_wav2vec": (465, 160, 512),
    "wav2vec": (465, 160, 512),
    "wav2vec2_base": (400, 320, 512),
    "wav2vec2_large": (400, 320, 512),
    "wav2vec_skip": (465, 160, 512),
}


def test_published_receptive_fields() -> None:
    base = ConvFeatureEncoder()
    assert (base.receptive_field, base.stride, base.output_dim) == (400, 320, 512)
    layers = [(4, 10, 5), (4, 8, 4), (4, 4, 2), (4, 4, 2), (4, 4, 2), (4, 1, 1), (4, 1, 1)]
    wav2vec = ConvFeatureEncoder(layers)
    assert (wav2vec.receptive_field, wav2vec.stride) == (465, 160)
    assert base.num_frames(249_600) == 779
    assert base.num_frames(250_000) == 781


@layouts
def test_padding_does_not_change_an_utterance_however_short(layout: str) -> None:
    """Zero padding changed every frame of the published models, through the norms over time; and with skip connections
    a short utterance, through a step that followed from the length of the batch."""
    torch.manual_seed(0)
    encoder = ConvFeatureEncoder(LAYERS, **LAYOUTS[layout])
    batch = audio_batch((encoder.receptive_field + 10 * encoder.stride, encoder.receptive_field, 150, 400))
    together = encoder(batch.waveform, batch.num_samples)
    for row, samples in enumerate(batch.num_samples):
        alone = encoder(batch.waveform[row : row + 1, :samples], (samples,))
        assert_close(together[row, : encoder.num_frames(samples)], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("layout", "changes"), [("base", True), ("wav2vec", True), ("large", False)])
def test_included_padding_enters_the_norms_over_time(layout: str, changes: bool) -> None:
    """The parity option does as the released code does; a norm over channels has no such defect."""
    torch.manual_seed(0)
    encoder = ConvFeatureEncoder(LAYERS, **LAYOUTS[layout], padding="include")
    batch = audio_batch((150, 400))
    together = encoder(batch.waveform, batch.num_samples)[0, : encoder.num_frames(150)]
    alone = encoder(batch.waveform[:1, :150], (150,))[0]
    assert torch.allclose(together, alone, atol=1e-4) is not changes


@layouts
def test_gradient_scale_scales_the_gradient_of_every_parameter(layout: str) -> None:
    gradients = []
    for scale in (1.0, 0.1):
        torch.manual_seed(0)
        encoder = ConvFeatureEncoder(LAYERS, **LAYOUTS[layout], gradient_scale=scale)
        batch = audio_batch((300,))
        encoder(batch.waveform, batch.num_samples).square().sum().backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    for full, scaled in zip(*gradients, strict=True):
        assert_close(scaled, 0.1 * full)


@layouts
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(layout: str, dtype: torch.dtype) -> None:
    """Whole models in float64 and in bfloat16; the norms of the latter are computed above it."""
    torch.manual_seed(0)
    encoder = ConvFeatureEncoder(LAYERS, **LAYOUTS[layout])
    batch = audio_batch((300, 200))
    exact = encoder(batch.waveform, batch.num_samples)
    encoder.to(dtype)
    with OnlyFloat64():
        latents = encoder(batch.waveform.to(dtype), batch.num_samples)
    assert latents.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float64 else 0.1
    assert_close(latents.float(), exact, rtol=tolerance, atol=tolerance)


def test_normalised_waveform_has_no_loudness_and_no_offset() -> None:
    torch.manual_seed(0)
    encoder = ConvFeatureEncoder(LAYERS, **LAYOUTS["large"]).double()
    batch = audio_batch((300, 200)).to(torch.float64)
    waveform = batch.waveform
    latents = encoder(waveform, batch.num_samples)
    louder = torch.where(waveform == 0, 0.0, 20 * waveform + 3)  # only the padding is exactly zero
    assert_close(encoder(louder, batch.num_samples)[1, :4], latents[1, :4], rtol=1e-3, atol=1e-3)
    assert_close(encoder(louder, batch.num_samples)[0], latents[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("eps", [1e-5, 1e-7])
def test_the_epsilon_of_the_waveform_matters_for_quiet_audio(eps: float) -> None:
    torch.manual_seed(0)
    encoder = ConvFeatureEncoder(LAYERS, **LAYOUTS["large"], waveform_eps=eps).eval()
    plain = ConvFeatureEncoder(LAYERS, normalization="layer", bias=True).eval()
    plain.load_state_dict(encoder.state_dict())
    waveform = 1e-3 * torch.randn(1, 600)
    expected = (waveform - waveform.mean()) / (waveform.var(correction=0) + eps).sqrt()
    assert_close(encoder(waveform, (600,)), plain(expected, (600,)), rtol=1e-4, atol=1e-5)
    padded = torch.cat([waveform, torch.zeros(1, 200)], dim=1)
    frames = encoder.num_frames(600)
    assert_close(encoder(padded, (600,))[:, :frames], plain(expected, (600,)), rtol=1e-4, atol=1e-5)


def test_an_epsilon_that_cannot_be_and_one_without_effect() -> None:
    with pytest.raises(ValueError, match="`waveform_eps` must be above 0, but is 0"):
        ConvFeatureEncoder(LAYERS, normalize_waveform=True, waveform_eps=0.0)
    with pytest.warns(W2VLabWarning, match="`waveform_eps` has no effect: `normalize_waveform` is false"):
        ConvFeatureEncoder(LAYERS, waveform_eps=1e-7)


def test_log_compression() -> None:
    torch.manual_seed(0)
    plain = ConvFeatureEncoder(LAYERS)
    compressed = ConvFeatureEncoder(LAYERS, log_compression=True)
    compressed.load_state_dict(plain.state_dict())
    batch = audio_batch((300,))
    latents = plain(batch.waveform, batch.num_samples)
    assert_close(compressed(batch.waveform, batch.num_samples), (latents.abs() + 1).log())


@pytest.mark.parametrize(
    ("layers", "message"),
    [([], "`layers` must have at least one"), ([(8, 0, 1)], r"must hold positive numbers, but one is \[8, 0, 1\]")],
)
def test_layers_that_cannot_be(layers: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvFeatureEncoder(layers)


layer = st.tuples(st.just(2), st.integers(1, 6), st.integers(1, 4))


@settings(deadline=None)
@given(layers=st.lists(layer, min_size=1, max_size=5), extra=st.lists(st.integers(0, 60), min_size=1, max_size=3))
def test_arithmetic_of_lengths_holds_for_any_layers(layers: list[tuple[int, int, int]], extra: list[int]) -> None:
    """Of a batch and of each utterance alone: as many latents as the convolutions give, one after another, and as the
    receptive field and the stride say."""
    torch.manual_seed(0)
    encoder = ConvFeatureEncoder(layers, normalization="layer")
    num_samples = tuple(encoder.receptive_field + more for more in extra)
    latents = encoder(torch.randn(len(extra), max(num_samples)), num_samples)
    assert latents.shape == (len(extra), encoder.num_frames(max(num_samples)), 2)
    for samples in num_samples:
        frames = samples
        for _, kernel, stride in layers:
            frames = (frames - kernel) // stride + 1
        assert encoder.num_frames(samples) == frames
    assert encoder.num_frames(encoder.receptive_field - 1) == 0


@pytest.mark.parametrize("path", sorted(FRAGMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_fragments_have_the_published_receptive_fields(path: Path) -> None:
    fragment = yaml.safe_load(path.read_text(encoding="utf-8"))
    encoder = getattr(w2vlab.encoders, fragment["class_path"])(**fragment["init_args"])
    assert (encoder.receptive_field, encoder.stride, encoder.output_dim) == PUBLISHED[path.stem]


def test_skip_connections_are_scaled_sums() -> None:
    """Two layers by hand, the second with a skip connection: (conv(x) + every second x) * sqrt(0.5)."""
    torch.manual_seed(0)
    encoder = ConvFeatureEncoder([(3, 4, 2), (3, 3, 2)], normalization="layer", skip_connections=True).double()
    waveform = torch.randn(1, 30, dtype=torch.float64)
    first, second = encoder.blocks
    inner = first(waveform[..., None], None)  # (1, 14, 3)
    outer = second(inner, None)  # (1, 6, 3)
    assert_close(encoder(waveform, (30,)), (outer + inner[:, 0:12:2]) * 0.5**0.5)
