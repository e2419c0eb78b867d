"""A warm start from folders of transformers: pretrained, fine-tuned, HuBERT, and without a mask embedding."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.formats.transformers.peers import CHARACTERS, LARGE, peer, saved
from tests.modules.training import fit, make_batches
from w2vlab.cli.lightning.parsed import build_pretraining
from w2vlab.modules import MaskedPrediction
from w2vlab.modules.sources import read_source

pytest.importorskip("transformers")

ALL = {"encoder", "norm", "context", "quantizer", "loss", "mask_embedding"}
QUANTIZER = {
    "quantizer": {"class_path": "GumbelQuantizer", "init_args": {"codebook_size": 6, "output_dim": 8}},
    "loss": {"class_path": "ContrastiveLoss", "init_args": {"projection_dim": 10, "num_negatives": 7}},
}


def started(folder: Path, parts: list[str] | None = None, **changes: Any) -> MaskedPrediction:
    """Builds the model that a folder describes, or another one, with the weights of the folder."""
    options = deepcopy(read_source(folder).config["init_args"])
    options |= {"init_from": str(folder), "init_from_parts": parts, **changes}
    torch.manual_seed(1)
    module = build_pretraining({"class_path": "w2vlab.modules.MaskedPrediction", "init_args": options})
    assert isinstance(module, MaskedPrediction)
    return module


def loaded(module: MaskedPrediction) -> set[str]:
    assert module.warm_start is not None
    return {part.part for part in module.warm_start.parts if part.loaded}


@pytest.mark.parametrize("layout", [{}, LARGE], ids=["base", "large"])
def test_a_pretrained_folder_is_loaded_whole_and_trains(tmp_path: Path, layout: dict[str, Any]) -> None:
    theirs = peer("Wav2Vec2ForPreTraining", **layout)
    ours = started(saved(theirs, tmp_path / "theirs"))
    assert loaded(ours) == ALL
    assert ours.warm_start is not None
    assert (ours.warm_start.format, ours.warm_start.architecture) == ("transformers", "Wav2Vec2ForPreTraining")
    assert torch.equal(ours.mask_embedding, theirs.wav2vec2.masked_spec_embed)
    fit(ours, make_batches(2, 1, 2, (800,)), 2)
    assert ours.trainer.global_step == 2
    assert not torch.equal(ours.mask_embedding, theirs.wav2vec2.masked_spec_embed)


def test_hubert_gives_all_but_quantizer_and_loss(tmp_path: Path) -> None:
    ours = started(saved(peer("HubertModel"), tmp_path / "theirs"), **QUANTIZER)
    assert loaded(ours) == ALL - {"quantizer", "loss"}
    assert {part.why for part in ours.warm_start.parts if not part.loaded} == {"the source has none"}


def test_units_of_a_file_are_predicted_from_a_hubert_of_transformers(tmp_path: Path) -> None:
    parts = {
        "quantizer": {"class_path": "FileTargets", "init_args": {"path": "absent", "codebook_size": 5}},
        "loss": {"class_path": "CodePredictionLoss", "init_args": {"similarity": "cosine"}},
    }
    ours = started(saved(peer("HubertModel"), tmp_path / "theirs"), **parts)
    assert loaded(ours) == ALL - {"quantizer", "loss"}
    assert {part.part for part in ours.warm_start.parts if not part.loaded} == {"loss"}


def test_a_fine_tuned_folder_that_has_lost_its_mask_embedding_is_an_error(tmp_path: Path) -> None:
    """transformers has no `masked_spec_embed` if no mask is drawn in fine-tuning."""
    lost = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "vocab_size": len(CHARACTERS)}
    folder = saved(peer("Wav2Vec2ForCTC", **lost), tmp_path / "lost", vocab=CHARACTERS)
    message = r"must have a mask embedding, but .*lost \(transformers, Wav2Vec2ForCTC\) has none"
    with pytest.raises(ValueError, match=message) as problem:
        started(folder, **QUANTIZER)
    parts = re.findall(r"--model.init_from_parts=\[([\w,]+)\]", str(problem.value))[0].split(",")
    ours = started(folder, parts, **QUANTIZER)
    assert loaded(ours) == set(parts) == {"encoder", "norm", "context"}
    assert ours.warm_start is not None
    assert ours.warm_start.unused == ("head",)
    kept = saved(
        peer("Wav2Vec2ForCTC", mask_time_prob=0.1, vocab_size=len(CHARACTERS)), tmp_path / "kept", vocab=CHARACTERS
    )
    assert loaded(started(kept, **QUANTIZER)) == ALL - {"quantizer", "loss"}


def test_other_widths_are_named_with_both_values(tmp_path: Path) -> None:
    folder = saved(peer("Wav2Vec2ForPreTraining"), tmp_path / "theirs")
    context = deepcopy(read_source(folder).config["init_args"]["context"])
    context["init_args"]["model_dim"] = 32
    ours = started(folder, context=context)
    assert loaded(ours) == ALL - {"context", "mask_embedding", "loss"}
    reasons = {part.part: part.why for part in ours.warm_start.parts}
    assert reasons["context"] == "another width: `model_dim` is 32, the source has 24"
