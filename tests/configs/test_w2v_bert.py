"""w2v-BERT: the halves of the network, the sizes, and the losses that train them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.configs.test_best_rq import conformer
from tests.configs.test_recipes import build, recipe
from w2vlab.losses import CodePredictionLoss, ContrastiveLoss

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["w2v_bert_base", "w2v_bert_small"])
def test_the_lower_half_is_contrastive_and_all_layers_predict_codes(name: str) -> None:
    model = build(recipe(name)["model"])
    terms = model.loss.terms
    assert {term: type(loss) for term, loss in terms.items()} == {
        "contrastive": ContrastiveLoss,
        "codes": CodePredictionLoss,
    }
    assert model.loss._weights == (1.0, 1.0)
    assert model.layers_of_loss == {model.context.num_layers // 2: model.context.num_layers // 2}
    assert model.loss.uses_contexts  # the codes are predicted from the last layer
    assert model.loss.teaches_targets
    assert not terms["codes"].teaches_targets


def test_the_published_model_has_the_published_sizes() -> None:
    model = build(recipe("w2v_bert_base")["model"])
    assert sum(p.numel() for p in model.context.context.layers.parameters()) == conformer(24, 1024, 4096, 5)
    total = sum(p.numel() for p in model.parameters())
    assert f"# {total / 1e6:.2f} M parameters." in (CONFIGS / "w2v_bert_base.yaml").read_text(encoding="utf-8")
    assert model.quantizer.num_codebooks * model.quantizer.codebook_size == 1024
    assert model.loss.codes.code_scores.weight.shape == (1024, 1024)


def test_units_are_predicted_from_two_layers() -> None:
    """ILS: the fragment in place of the single loss of the small HuBERT, with the same options."""
    model = recipe("hubert_small")["model"]
    single = model["init_args"]["loss"]
    model["init_args"]["losses"] = recipe("losses/intermediate_layers")
    for term in model["init_args"]["losses"].values():
        assert term["loss"] == single
    built = build(model)
    assert list(built.loss.terms) == ["lower", "upper"]
    assert built.layers_of_loss == {1: 1}
    assert built.loss.predicts_every_frame
