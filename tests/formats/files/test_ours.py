"""Our models as one file in the safetensors format."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from w2vlab.formats import LazyWeights, Origin, PublishedModel
from w2vlab.formats.files.ours import METADATA, is_ours_safetensors, read_ours_safetensors, write_ours_safetensors
from w2vlab.formats.files.tensors import open_safetensors
from w2vlab.vocabulary import Vocabulary

WEIGHTS = {"norm.weight": torch.randn(3), "head.weight": torch.randn(3, 4).half(), "head.bias": torch.zeros(3)}
MODEL = PublishedModel(
    config={"class_path": "w2vlab.modules.MaskedPrediction", "init_args": {"encoder": {"layers": [[8, 10, 5]]}}},
    weights=WEIGHTS,
    missing=("quantizer", "loss"),
    vocabulary=Vocabulary("characters", ("<blank>", " ", "é")),
    origin=Origin(format="fairseq", architecture="wav2vec_ctc", options={"cfg": {"a": [1, None]}}, notes=["A note."]),
)


def test_everything_comes_back_and_the_same_model_gives_the_same_bytes(tmp_path):
    path = tmp_path / "model.safetensors"
    assert write_ours_safetensors(MODEL, path) == []
    assert is_ours_safetensors(path)
    found = read_ours_safetensors(path)
    assert isinstance(found.weights, LazyWeights)
    for name in ("config", "missing", "vocabulary", "origin"):
        assert getattr(found, name) == getattr(MODEL, name)
    assert all(torch.equal(found.weights[name], WEIGHTS[name]) for name in WEIGHTS)
    assert {name: found.weights[name].dtype for name in WEIGHTS} == {name: WEIGHTS[name].dtype for name in WEIGHTS}
    assert load_file(path).keys() == WEIGHTS.keys()
    write_ours_safetensors(found, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_other_files_are_not_ours(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path, {"format": "pt"})
    assert not is_ours_safetensors(path)
    with pytest.raises(ValueError, match="`init_from` must be a file that w2vlab has written"):
        read_ours_safetensors(path, "init_from")
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{")
    assert not is_ours_safetensors(path)


def content(tmp_path):
    write_ours_safetensors(MODEL, tmp_path / "model.safetensors")
    return json.loads(open_safetensors(tmp_path / "model.safetensors")[1][METADATA])


def nested(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "`version` of .* must be 1, but is '2'"),
        ({"model": []}, "`model` is not a mapping"),
        ({"missing": ["context"]}, "`missing` not a list of parts"),
        ({"missing": [["quantizer"]]}, "`missing` not a list of parts"),
        ({"vocabulary": {"units": "words", "entries": ["a"]}}, "no units of characters, phones"),
        ({"vocabulary": {"units": "phones", "entries": [1]}}, "A vocabulary must have"),
        ({"origin": {"format": 1}}, "`origin` does not say"),
        ({"model": {"a": list(range(300_000))}}, "at most 200,000 values"),
        ('{"model": ', "does not: Expecting value"),
        (f'{{"model": {nested(100)}}}', "nested deeper than 64"),
        (f'{{"model": {nested(100_000)}}}', "nested deeper than 64"),
        ("[]", "not a mapping"),
        (f'{{"version": {"9" * 400}}}', "does not: .*number"),
    ],
)
def test_untrusted_metadata_is_bounded_and_checked(tmp_path, change, reason):
    text = change if isinstance(change, str) else json.dumps({**content(tmp_path), **change})
    path = tmp_path / "bad.safetensors"
    save_file(WEIGHTS, path, {METADATA: text})
    with pytest.raises(ValueError, match=reason) as caught:
        read_ours_safetensors(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_vocabulary_without_a_linear_layer_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"norm.weight": torch.zeros(2)}, path, {METADATA: json.dumps(content(tmp_path))})
    with pytest.raises(ValueError, match="or it has no linear layer"):
        read_ours_safetensors(path)
