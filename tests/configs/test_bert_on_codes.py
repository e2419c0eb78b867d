"""The configuration of BERT on codes has the published sizes, and the words of its inputs are those of its targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.configs.test_recipes import build, recipe

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_published_model_has_the_published_sizes() -> None:
    model = build(recipe("bert_on_codes")["model"])
    width, inner, words = 768, 3072, 13_501
    layer = 4 * (width + 1) * width + (width + 1) * inner + (inner + 1) * width + 4 * width
    assert sum(p.numel() for p in model.context.layers.parameters()) == 12 * layer  # those of BERT base
    assert model.encoder.embedding.weight.shape == (words, width)
    assert (model.encoder.stride, model.encoder.receptive_field) == (160, 465)
    assert model.loss.name == "code_prediction"
    total = sum(p.numel() for p in model.parameters())
    assert f"# {total / 1e6:.2f} M parameters." in (CONFIGS / "bert_on_codes.yaml").read_text(encoding="utf-8")
    data = recipe("bert_on_codes")["data"]
    assert data["batch_seconds"] * data["micro_batches"] * 100 == pytest.approx(393_216)  # words of an update


@pytest.mark.parametrize("name", ["bert_on_codes", "bert_on_codes_small"])
def test_inputs_and_targets_are_the_words_of_one_file(name: str) -> None:
    model = recipe(name)["model"]["init_args"]
    shared = ("path", "num_codebooks", "codebook_size", "joint_size", "stride", "receptive_field")
    encoder, quantizer = model["encoder"]["init_args"], model["quantizer"]["init_args"]
    assert {option: encoder[option] for option in shared} == {option: quantizer[option] for option in shared}
    assert recipe(name)["data"]["read_audio"] is False
