"""The name of an objective in a model card, with its paper; nothing is named that it is not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.interop.toys import LAYERS, save, save_finetuned, toy_model
from w2vlab.contexts import TransformerContext
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.interfaces import LossTerm
from w2vlab.interop.exporting import write
from w2vlab.interop.model_card import model_card
from w2vlab.interop.objective_names import name_objective
from w2vlab.interop.run_facts import collect_facts
from w2vlab.losses import CodePredictionLoss, ContrastiveLoss
from w2vlab.modules import TeacherPrediction
from w2vlab.modules.checkpoints.loading import read_checkpoint
from w2vlab.modules.sources import read_source
from w2vlab.quantizers import EMAQuantizer
from w2vlab.teachers import EMATeacher

CONFIGS = Path(__file__).parents[2] / "configs"


def merged(*names: str) -> dict[str, Any]:
    model: dict[str, Any] = {"init_args": {}}
    for name in names:
        new = yaml.safe_load((CONFIGS / name).read_text())["model"]
        model = {**model, **new, "init_args": {**model["init_args"], **new.get("init_args", {})}}
    return model


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("wav2vec2_base.yaml", "wav2vec 2.0 ("),
        ("wav2vec_large.yaml", "wav2vec ("),
        ("vq_wav2vec_gumbel.yaml", "vq-wav2vec ("),
        ("vq_wav2vec_kmeans.yaml", "vq-wav2vec ("),
        ("hubert_base.yaml", "HuBERT (Hsu"),
        ("best_rq.yaml", "BEST-RQ ("),
        ("data2vec_base.yaml", "data2vec (Baevski"),
        ("dinosr_base.yaml", "DinoSR ("),
        ("spidr_base.yaml", "SpidR ("),
        ("spidr_small.yaml", "SpidR ("),
        ("w2v_bert_base.yaml", "w2v-BERT ("),
    ],
)
def test_recipes_have_the_names_of_their_papers(recipe: str, name: str) -> None:
    found = name_objective(merged(recipe))
    assert found.startswith(name)
    assert "arXiv:" in found


@pytest.mark.parametrize("name", ["wav2vec2", "vq_wav2vec", "hubert", "best_rq", "data2vec", "dinosr", "spidr"])
def test_the_rows_of_the_sweep_of_objectives(name: str) -> None:
    found = name_objective(merged("objectives/shared.yaml", f"objectives/{name}.yaml"))
    plain = found.partition(" (")[0].lower().replace(" ", "").replace("-", "").replace(".", "")
    assert plain in (name.replace("_", ""), f"{name}0")


def taught(**options: Any) -> dict[str, Any]:
    return {"class_path": "w2vlab.modules.TeacherPrediction", "init_args": options}


def part(name: str, **options: Any) -> dict[str, Any]:
    return {"class_path": f"w2vlab.{name}", "init_args": options}


HEADS = {"quantizer": part("EMAQuantizer"), "context": part("TransformerContext", num_layers=4)}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (taught(), "data2vec (Baevski et al. 2022, arXiv:2202.03555)"),
        (taught(**HEADS, loss=part("CodePredictionLoss", layers=None)), "DinoSR"),
        (taught(**HEADS, loss=part("CodePredictionLoss", layers=[4, 4])), "DinoSR"),
        (taught(**HEADS, loss=part("CodePredictionLoss", layers=[-1, 4])), "DinoSR"),
        (taught(**HEADS, loss=part("CodePredictionLoss", layers=[3, 4])), "SpidR"),
        (taught(**HEADS, loss=part("CodePredictionLoss", layers=[-2, -1])), "SpidR"),
        (taught(loss=part("ContrastiveLoss")), "TeacherPrediction with ContrastiveLoss and IdentityQuantizer"),
        (taught(losses={"a": {"loss": part("RegressionLoss")}}), "TeacherPrediction with RegressionLoss"),
        ({"class_path": "my.Objective"}, "Objective"),
        ({"class_path": "MaskedPrediction", "init_args": 3}, "wav2vec 2.0 ("),
    ],
)
def test_what_decides(config: dict[str, Any], name: str) -> None:
    assert name_objective(config).startswith(name)


def test_several_masks_of_an_utterance_are_those_of_data2vec_2() -> None:
    assert name_objective(taught(masked_copies=8)).endswith(
        ", with masked copies of each utterance as in data2vec 2.0 (Baevski et al. 2022, arXiv:2212.07525)"
    )
    assert "masked copies" not in name_objective(taught(masked_copies=1))


def test_units_at_two_layers_are_those_of_ils() -> None:
    layers = yaml.safe_load((CONFIGS / "losses" / "intermediate_layers.yaml").read_text())
    hubert = merged("hubert_small.yaml")
    found = name_objective({**hubert, "init_args": {**hubert["init_args"], "losses": layers}})
    assert "ILS-SSL, Wang et al. 2022" in found
    layers["lower"]["weight"] = 0.0
    found = name_objective({**hubert, "init_args": {**hubert["init_args"], "losses": layers}})
    assert found.startswith("HuBERT (Hsu")


def spidr() -> TeacherPrediction:
    context: dict[str, Any] = {"model_dim": 24, "num_layers": 3, "num_heads": 4, "feedforward_dim": 32}
    return TeacherPrediction(
        encoder=partial(ConvFeatureEncoder, layers=LAYERS),
        context=partial(TransformerContext, **context, position_kernel=8, position_groups=4),
        teacher=partial(EMATeacher, layers=2, combine="concatenate"),
        quantizer=partial(EMAQuantizer, num_codebooks=2, codebook_size=5),
        loss=partial(CodePredictionLoss, layers=[2, 3]),
    ).eval()


def w2v_bert() -> Any:
    terms = {
        "contrastive": LossTerm(loss=partial(ContrastiveLoss, projection_dim=6, num_negatives=4), layer=2),
        "codes": LossTerm(loss=CodePredictionLoss),
    }
    return toy_model(losses=terms)


@pytest.mark.parametrize(("build", "name"), [(spidr, "SpidR"), (w2v_bert, "w2v-BERT")])
def test_cards_of_a_checkpoint_and_of_its_fine_tuning(build: Any, name: str, tmp_path: Path) -> None:
    """A fine-tuning has no codebooks, but the card still says what it was pretrained for."""
    pretrained = save(build(), tmp_path / "pretrained.ckpt")
    finetuned = save_finetuned(build(), tmp_path / "ctc.ckpt")
    for path in (pretrained, finetuned):
        facts = collect_facts(read_checkpoint(path, check=False), path)
        assert f"\n* Objective: {name} (" in model_card(read_source(path), facts, plain=path == pretrained)


def test_a_file_that_does_not_state_its_objective_has_none(tmp_path: Path) -> None:
    source = save(toy_model(), tmp_path / "ours.ckpt")
    write(source, tmp_path / "plain", "huggingface", plain=True)
    write(tmp_path / "plain", tmp_path / "again", "huggingface")
    card = (tmp_path / "again" / "README.md").read_text()
    assert "Objective" not in card
    assert "\n* Network: that of wav2vec 2.0 (Baevski" in card
