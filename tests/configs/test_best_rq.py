"""The configuration of BEST-RQ has the published sizes, and what it quantizes is not trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.configs.test_recipes import build, recipe

CONFIGS = Path(__file__).parents[2] / "configs"


def conformer(layers: int, width: int, inner: int, kernel: int) -> int:
    """Parameters of Conformer layers, from the paper's sizes."""
    norm = 2 * width
    feed_forward = norm + 2 * width * inner + inner + width
    attention = norm + 4 * (width * width + width)
    convolution = norm + (2 * width * width + 2 * width) + (width * kernel + width) + norm + (width * width + width)
    return layers * (2 * feed_forward + attention + convolution + norm)


def test_the_published_model_has_the_published_sizes() -> None:
    model = build(recipe("best_rq")["model"])
    width = 1024
    layers = sum(p.numel() for p in model.context.context.layers.parameters())
    assert layers == conformer(24, width, 4096, 5)
    convolutions = (9 + 1) * 128 + 2 * 40 * 128 + (9 * 128 + 1) * 32 + 2 * 20 * 32
    assert sum(p.numel() for p in model.context.convolutions.parameters()) == convolutions
    assert model.context.context.input_projection.weight.shape == (width, 640)  # as SpeechBrain's, 20 mels of 32
    positions = width * (width // 16) * 128 + 128 + width
    around = 640 * width + width + positions + 2 * width  # projection, positions, norm
    head = (width + 1) * 8192
    total = sum(p.numel() for p in model.parameters())
    assert total == layers + convolutions + around + head + 320 * 2 + 320  # the norm and the mask embedding
    assert f"# {total / 1e6:.2f} M parameters." in (CONFIGS / "best_rq.yaml").read_text(encoding="utf-8")
    assert (model.encoder.stride, model.encoder.output_dim) == (640, 320)
    assert model.quantizer.projection.shape == (1, 16, 320)
    assert model.quantizer.entries.shape == (1, 8192, 16)


@pytest.mark.parametrize("name", ["best_rq", "best_rq_small"])
def test_nothing_before_the_quantizer_is_trained(name: str) -> None:
    model = build(recipe(name)["model"])
    assert model.target_encoder is not None
    assert model.target_encoder.grid == model.encoder.grid
    assert not list(model.target_frontend().parameters())
