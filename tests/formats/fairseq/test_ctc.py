"""wav2vec 2.0 fine-tuned by CTC, with its units, in fairseq's layouts."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contracts.tiny import audio_batch
from tests.formats.fairseq.models import WAV2VEC2, XLSR, checkpoint, read, save, tensors_of
from w2vlab.formats import HEAD
from w2vlab.formats.fairseq import write_fairseq
from w2vlab.formats.fairseq.tensors import FINE_TUNED
from w2vlab.formats.files.pickles import read_pickle
from w2vlab.modules import CTCFineTuning
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.sources import read_source
from w2vlab.vocabulary import BLANK, Vocabulary

DICTIONARY = "| 94802\nE 51860\nT 38431\n' 12\nmadeupword0000 0\n"
LETTERS = DICTIONARY.replace("madeupword0000 0\n", "")
ENTRIES = (BLANK, "<s>", "</s>", "<unk>", " ", "E", "T", "'")

CTC: dict[str, Any] = {
    "_name": "wav2vec_ctc",
    "w2v_path": "/of/another/computer.pt",
    "mask_prob": 0.5,
}


def tensors(options: dict[str, Any] = XLSR, rows: int = 8) -> dict[str, Tensor]:
    head = {"w2v_encoder.proj.weight": torch.randn(rows, 8), "w2v_encoder.proj.bias": torch.randn(rows)}
    return tensors_of(options, heads=False, prefix=FINE_TUNED) | head


def content(options: dict[str, Any] = XLSR, **further: Any) -> dict[str, Any]:
    """A file whose options hold those of the pretrained model, which have another task."""
    inner = checkpoint(options, {}, task={"normalize": True})["cfg"]
    task = {"_name": "audio_finetuning", "labels": "ltr", "normalize": True}
    return checkpoint(CTC | {"w2v_args": inner}, tensors(options), task=task, **further)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "dict.ltr.txt").write_text(LETTERS)
    torch.manual_seed(0)
    return save(tmp_path / "in.pt", content())


def test_the_pretrained_model_the_head_and_the_units_are_read(path: Path) -> None:
    model = read(path)
    assert model.vocabulary == Vocabulary("characters", ENTRIES)
    assert model.missing == ("quantizer", "loss")
    assert model.config["init_args"]["quantizer"]["class_path"].endswith("IdentityQuantizer")
    assert model.config["init_args"]["encoder"]["init_args"]["normalize_waveform"]
    # Options of the pretraining, not those that the fine-tuning had in their place.
    assert model.config["init_args"]["masking"]["init_args"]["probability"] == 0.65
    assert set(HEAD) <= model.weights.keys()
    assert "mask_embedding" in model.weights
    assert model.origin.architecture == "wav2vec_ctc"
    assert model.vocabulary.decode([5, 6, 4, 5, 2, 7]) == "ET E'"


def test_it_is_built_and_scores_as_its_parts_do(path: Path) -> None:
    model = build_model_of(read_source(path), path)
    assert isinstance(model, CTCFineTuning)
    batch = audio_batch((4000,))
    pretrained = build_model_of(replace(read_source(path), vocabulary=None), path)
    with torch.no_grad():
        encoding = pretrained.encode(batch)
        context = pretrained.context(pretrained.context.project(encoding.latents))
        content = read_pickle(path)["model"]
        logits = context @ content["w2v_encoder.proj.weight"].T + content["w2v_encoder.proj.bias"]
        assert_close(model(batch).log_probabilities, logits.log_softmax(-1))


def test_there_and_back(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "model.pt"
    out.parent.mkdir()
    assert write_fairseq(read_source(path), out) == []
    before, after = read_pickle(path), read_pickle(out)
    assert after["cfg"] == before["cfg"]
    assert after["model"].keys() == before["model"].keys()
    assert all(torch.equal(after["model"][name], tensor) for name, tensor in before["model"].items())
    assert read_source(out).vocabulary == read_source(path).vocabulary
    assert [line.split(" ")[0] for line in (out.parent / "dict.ltr.txt").read_text().splitlines()] == [
        "|",
        "E",
        "T",
        "'",
    ]


def test_a_dictionary_that_is_there_stays_if_it_is_the_same(path: Path, tmp_path: Path) -> None:
    write_fairseq(read_source(path), tmp_path / "out.pt")
    assert (tmp_path / "dict.ltr.txt").read_text() == LETTERS
    model = read_source(path)
    (tmp_path / "dict.ltr.txt").write_text(LETTERS.replace("E", "F"))
    with pytest.raises(ValueError, match=r"dict\.ltr\.txt must be the dictionary of this model, but is another"):
        write_fairseq(model, tmp_path / "out.pt")


def test_namespaces_stay_namespaces(tmp_path: Path) -> None:
    (tmp_path / "dict.ltr.txt").write_text(LETTERS)
    inner = {name: value for name, value in WAV2VEC2.items() if name != "_name"} | {"arch": "wav2vec2"}
    args = argparse.Namespace(arch="wav2vec_ctc", labels="ltr", normalize=False, w2v_args=argparse.Namespace(**inner))
    path = save(tmp_path / "in.pt", {"args": args, "model": tensors(WAV2VEC2)})
    model = read_source(path)
    assert model.origin.options["layout"] == "args"
    assert not model.config["init_args"]["encoder"]["init_args"]["normalize_waveform"]
    write_fairseq(model, tmp_path / "out.pt")
    assert torch.load(tmp_path / "out.pt", weights_only=False)["args"] == args


def test_units_in_the_file_come_first(path: Path) -> None:
    """Newer files have fairseq's dictionary itself; another object of that class has the same pickle."""
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "A", "|", "B", "C"]
    save(path, content(task_state={"target_dictionary": {"symbols": symbols, "count": [1] * 8}}))
    assert read(path).vocabulary == Vocabulary("characters", (*ENTRIES[:4], "A", " ", "B", "C"))


@pytest.mark.parametrize("place", ["data", "target_dictionary", "w2v_path"])
def test_units_in_a_folder_that_the_file_names_are_not_read(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "dict.phn.txt").write_text("AH0 5\nB 4\nK 3\nS 2\n")
    model = CTC | {"w2v_args": content()["cfg"]["model"]["w2v_args"]}
    task = {"labels": "phn", "normalize": True}
    if place == "w2v_path":
        model["w2v_path"] = str(folder / "pretrained.pt")
    else:
        task[place] = str(folder)
    path = save(tmp_path / "in.pt", checkpoint(model, tensors(), task=task))
    with pytest.raises(ValueError, match=r"Put the dict\.phn\.txt .* beside it, or give its path as .* `dictionary`"):
        read(path)
    found = read(path, dictionary=str(folder / "dict.phn.txt"))
    assert found.vocabulary == Vocabulary("phones", (*ENTRIES[:4], "AH0", "B", "K", "S"))
    assert f"The units are those of {folder / 'dict.phn.txt'}." in found.origin.notes


def test_a_dictionary_may_be_given(tmp_path: Path) -> None:
    path = save(tmp_path / "in.pt", content())
    (tmp_path / "other.txt").write_text(LETTERS)
    assert read(path, dictionary=str(tmp_path / "other.txt")).vocabulary == Vocabulary("characters", ENTRIES)
    with pytest.raises(ValueError, match=r"only option of a file of fairseq is `dictionary`, but .* got \['heads'\]"):
        read(path, heads=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            None,
            r"must have the dictionary of its 8 units, .* but there is none\. Put the dict\.ltr\.txt of its training",
        ),
        (DICTIONARY, r"but there is none \(.*dict\.ltr\.txt has 9\)"),
        ("E\nT\n", r"dict\.ltr\.txt must have a unit and its count in each line, but line 1 has not"),
        ("E five\n", "but line 1 has not"),
        ("\0" * 10, "but line 1 has not"),
    ],
)
def test_without_the_units_it_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "dict.ltr.txt").write_text(text)
    path = save(tmp_path / "in.pt", content())
    with pytest.raises(ValueError, match=message):
        read(path)


def test_labels_do_not_lead_to_other_files(tmp_path: Path) -> None:
    stored = content()
    stored["cfg"]["task"]["labels"] = "../../etc/passwd"
    path = save(tmp_path / "in.pt", stored)
    with pytest.raises(ValueError, match=r"Put the dict\.ltr\.txt of its training beside it"):
        read(path)


def test_without_the_options_of_the_pretrained_model_it_is_refused(tmp_path: Path) -> None:
    stored = content()
    del stored["cfg"]["model"]["w2v_args"]
    with pytest.raises(ValueError, match=r"`w2v_args` of .* is missing: they are in the file that `w2v_path` names"):
        read(save(tmp_path / "in.pt", stored))


def test_models_with_a_decoder_are_refused(tmp_path: Path) -> None:
    stored = content()
    stored["model"]["decoder.embed_tokens.weight"] = torch.ones(2)
    with pytest.raises(ValueError, match=r"alone or with CTC, but has a decoder \(wav2vec_ctc\)"):
        read(save(tmp_path / "in.pt", stored))


def test_a_head_of_ours_gets_the_rows_that_every_dictionary_begins_with(path: Path, tmp_path: Path) -> None:
    model = read_source(path)
    model.origin.format = "w2vlab"
    keep = [0, 4, 5, 6, 7]
    model.vocabulary = Vocabulary("characters", (BLANK, " ", "E", "T", "'"))
    weight, bias = (model.weights[name][keep] for name in HEAD)
    model.weights = {**model.weights, HEAD[0]: weight, HEAD[1]: bias}
    out = tmp_path / "out" / "model.pt"
    out.parent.mkdir()
    write_fairseq(model, out)
    again = read_source(out)
    assert again.vocabulary == Vocabulary("characters", ENTRIES)
    frames = torch.randn(5, 8)
    before = (frames @ weight.T + bias).log_softmax(-1)
    after = (frames @ again.weights[HEAD[0]].T + again.weights[HEAD[1]]).log_softmax(-1)
    assert torch.equal(after[:, keep], before)
    assert torch.equal(after[:, 1:4].exp(), torch.zeros(5, 3))
    cfg = read_pickle(out)["cfg"]
    assert cfg["model"]["_name"] == "wav2vec_ctc"
    assert cfg["model"]["w2v_args"]["model"]["encoder_embed_dim"] == 8
    assert cfg["task"] | {"labels": "ltr", "normalize": True} == cfg["task"]


def test_a_vocabulary_that_only_begins_otherwise_is_brought_into_order(path: Path, tmp_path: Path) -> None:
    model = read_source(path)
    model.origin.format = "w2vlab"
    order = [0, 5, 3, 6, 1, 4, 2, 7]
    model.vocabulary = Vocabulary("characters", tuple(ENTRIES[row] for row in order))
    model.weights = {**model.weights, **{name: model.weights[name][order] for name in HEAD}}
    out = tmp_path / "out" / "model.pt"
    out.parent.mkdir()
    write_fairseq(model, out)
    again, before = read_source(out), read_source(path)
    rows = [ENTRIES.index(entry) for entry in again.vocabulary.entries]
    assert sorted(rows) == list(range(8))
    for name in HEAD:
        assert torch.equal(again.weights[name], before.weights[name][rows])
