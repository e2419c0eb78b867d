"""Files that fairseq itself wrote, with what it computed from them.

Written by fairseq (commit 3d262bb2) with OmegaConf 2.3.1, at toy widths: HuBERT with the dictionary of its clusters,
and wav2vec 2.0 fine-tuned by CTC with the dictionary of its letters, both with options as OmegaConf's trees.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from tests.golden.reference import TOLERANCE
from w2vlab.formats.fairseq import write_fairseq
from w2vlab.formats.files.pickles import read_pickle
from w2vlab.modules import CTCFineTuning, MaskedPrediction
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.sources import read_source
from w2vlab.types import AudioBatch
from w2vlab.vocabulary import BLANK, Vocabulary

FOLDER = Path(__file__).parent / "recorded"
OUTPUTS = load_file(FOLDER / "outputs.safetensors")
BATCH = AudioBatch(waveform=OUTPUTS["waveform"], num_samples=(OUTPUTS["waveform"].shape[1],), ids=("a",))


@pytest.mark.parametrize("name", ["hubert.pt", "ctc.pt"])
def test_the_files_hold_objects(name: str) -> None:
    with zipfile.ZipFile(FOLDER / name) as archive:
        pickled = archive.read("archive/data.pkl")
    assert b"comegaconf.dictconfig\nDictConfig\n" in pickled
    assert b"cfairseq.data.dictionary\nDictionary\n" in pickled
    read_pickle(FOLDER / name)
    assert not any(module.startswith(("omegaconf", "fairseq")) for module in sys.modules)


def test_hubert_computes_what_fairseq_computes() -> None:
    model = build_model_of(read_source(FOLDER / "hubert.pt"), FOLDER / "hubert.pt")
    assert isinstance(model, MaskedPrediction)
    with torch.no_grad():
        encoding = model.encode(BATCH)
        context = model.context(model.context.project(encoding.latents), encoding.padding_mask)
    assert_close(context, OUTPUTS["hubert"], **TOLERANCE)


def test_a_recognizer_computes_what_fairseq_computes(tmp_path: Path) -> None:
    source = read_source(FOLDER / "ctc.pt")
    assert source.vocabulary == Vocabulary("characters", (BLANK, "<s>", "</s>", "<unk>", " ", "E", "T", "'"))
    model = build_model_of(source, FOLDER / "ctc.pt")
    assert isinstance(model, CTCFineTuning)
    with torch.no_grad():
        assert_close(model(BATCH).log_probabilities, OUTPUTS["ctc"], **TOLERANCE)
    write_fairseq(source, tmp_path / "out.pt")
    before, after = read_pickle(FOLDER / "ctc.pt"), read_pickle(tmp_path / "out.pt")
    assert after["model"].keys() == before["model"].keys()
    assert all(torch.equal(after["model"][name], tensor) for name, tensor in before["model"].items())
    again = read_source(tmp_path / "out.pt")
    assert (again.config, again.vocabulary, again.missing) == (source.config, source.vocabulary, source.missing)
    assert again.origin.options == source.origin.options
