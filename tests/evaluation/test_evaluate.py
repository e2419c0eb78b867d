"""A complete evaluation on the tiny corpus: all results have controls, and test utterances are not trained on."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from tests.contracts.tiny import build_model, factory
from tests.evaluation.conftest import make_model, write_labelled
from tests.helpers.unit_files import write_units
from w2vlab.data.corpora.splitting import position
from w2vlab.data.corpora.utterances import num_samples
from w2vlab.encoders import CodeEmbedding, LogMelEncoder
from w2vlab.evaluation import as_dict, evaluate, make_tasks, open_corpus, table_rows
from w2vlab.evaluation.comparison import PNMI, compare
from w2vlab.evaluation.features.corpus import seen_in_pretraining
from w2vlab.frame_grid import FrameGrid
from w2vlab.modules import MaskedPrediction
from w2vlab.quantizers import IdentityQuantizer


def test_every_representation_has_its_controls(corpus, shared_cache, model) -> None:
    tasks = make_tasks(corpus, max_cells=30)
    evaluation = evaluate(model, corpus, shared_cache, tasks=tasks)
    rows = table_rows(evaluation)
    assert [row.name for row in rows] == [
        *("latents", "layer 0", "layer 1", "layer 2", "context", "quantized", "codes", "MFCC (control)"),
    ]
    for row in rows:
        assert 0 < row.accuracy <= 1
        assert 0 <= row.accuracy_shifted < row.accuracy
        assert 0 <= row.abx["within"] < 0.6
    assert rows[-1].accuracy > 0.9  # MFCCs separate tones easily
    assert rows[-1].abx["within"] < 0.2
    assert rows[-1].dim == 78
    assert rows[6].dim == 10  # one-hot vectors of 2 codebooks with 5 entries
    assert [unit.name for unit in evaluation.model.units] == ["joint", "codebook 1", "codebook 2"]
    content = json.loads(json.dumps(as_dict(evaluation), allow_nan=False))
    assert content["corpus"]["phones"] == ["a", "b", "c", "pau"]
    assert len(content["abx"]["within"]["cells"]) == 30
    assert set(content["sources"]) == {"model", "random network", "MFCC"}  # Python built it, and it is known how
    assert set(content["corpus"]["split"]["test"]) == set(corpus.split.test)


def test_test_utterances_are_not_used_for_training(corpus, shared_cache, model, monkeypatch) -> None:
    seen = {}
    from w2vlab.evaluation.tasks import measure

    def spy(train, test, *arguments):
        seen["train"], seen["test"] = set(train.features), set(test.features)
        return SimpleNamespace(accuracy=0.5, majority=0.1, correct={}, total={}, penalty=1.0)

    monkeypatch.setattr(measure, "run_probe", spy)
    evaluate(model, corpus, shared_cache, "context")
    assert seen == {"train": set(corpus.split.train), "test": set(corpus.split.test)}
    assert not seen["train"] & seen["test"]


def test_codes_of_a_file_are_found_by_the_ids_of_the_utterances(corpus, shared_cache, tmp_path) -> None:
    """A model of codes is evaluated on a corpus whose codes are in its file: here the phones themselves."""
    grid, phones = FrameGrid(320, 400), list(corpus.phones)
    codes = {}
    for name, alignment in corpus.alignments.items():
        centres = grid.centres(grid.num_frames(num_samples(corpus.cuts[name])))
        spoken = np.clip(alignment.phone_indices(centres), 0, None)
        codes[name] = np.array([phones.index(alignment.phones[row]) for row in spoken])[:, None]
    path = str(write_units(tmp_path / "codes.parquet", codes, grid, len(phones)))
    options = {"path": path, "num_codebooks": 1, "codebook_size": len(phones), "output_dim": 8}
    encoder = partial(CodeEmbedding, **options, stride=grid.stride, receptive_field=grid.receptive_field)
    model = build_model(MaskedPrediction, encoder=encoder)
    row = table_rows(evaluate(model, corpus, shared_cache, "latents", make_tasks(corpus, max_cells=20)))[0]
    assert row.accuracy > 0.95
    assert row.abx["within"] < 0.3  # of 20 cells; chance is 0.5


def test_a_better_network_scores_better(corpus, shared_cache) -> None:
    """A network without input is close to the majority accuracy, and has chance-level ABX errors."""
    deaf = make_model()
    with torch.no_grad():
        for parameter in deaf.encoder.parameters():
            parameter.zero_()
    hearing = build_model(MaskedPrediction, encoder=LogMelEncoder)
    tasks = make_tasks(corpus, max_cells=20)
    found = {
        name: table_rows(evaluate(model, corpus, shared_cache, "latents", tasks))[0]
        for name, model in (("deaf", deaf), ("hearing", hearing))
    }
    assert found["deaf"].accuracy < 0.5
    assert found["hearing"].accuracy > 0.8
    assert found["deaf"].abx["within"] == pytest.approx(0.5, abs=0.01)
    assert found["hearing"].abx["within"] < 0.3


def test_without_labels_codes_alone_are_measured(tmp_path: Path, shared_cache, model) -> None:
    corpus = open_corpus(str(write_labelled(tmp_path, 4, labels=False)), shared_cache)
    assert corpus.alignments == {}
    evaluation = evaluate(model, corpus, shared_cache, tasks=make_tasks(corpus))
    assert (evaluation.tasks, evaluation.mfcc) == ((), None)
    joint = evaluation.model.units[0]
    assert joint.bits.frames > 0
    assert joint.pnmi is None
    assert all(row.accuracy is None and not row.abx for row in table_rows(evaluation))
    continuous = make_model(quantizer=factory(IdentityQuantizer))
    with pytest.raises(ValueError, match="must have phone labels to measure IdentityQuantizer, which has no codes"):
        evaluate(continuous, corpus, shared_cache)


def test_continuous_targets_have_no_units(corpus, shared_cache) -> None:
    evaluation = evaluate(make_model(quantizer=factory(IdentityQuantizer)), corpus, shared_cache, "2")
    assert evaluation.model.units == []
    assert [row.name for row in table_rows(evaluation)] == ["layer 2", "MFCC (control)"]


def test_one_phone_is_too_few(tmp_path: Path, shared_cache) -> None:
    root = write_labelled(tmp_path, 3)
    for path in (tmp_path / "lab").glob("*.lab"):
        path.write_text("#\n0.5 125 a\n")
    with pytest.raises(ValueError, match=r"must have at least 2 phones .*, but have 1: a"):
        open_corpus(str(root), shared_cache)


def test_labels_that_do_not_fit_the_audio(tmp_path: Path, shared_cache) -> None:
    root = write_labelled(tmp_path, 3)
    soundfile.write(root / "u01.wav", np.zeros(4000), 16_000)
    with pytest.raises(ValueError, match=r"The labels of u01.wav must end with its audio, at 0.250 s"):
        open_corpus(str(root), shared_cache)


def test_deleted_audio(tmp_path: Path, shared_cache, model) -> None:
    root = write_labelled(tmp_path, 4)
    corpus = open_corpus(str(root), shared_cache)
    (root / "u02.wav").unlink()
    with pytest.raises(ValueError, match=r"1 cannot be read: u02.wav"):
        evaluate(model, corpus, shared_cache, "context")


def test_test_utterances_in_pretraining(corpus, shared_cache, tmp_path: Path) -> None:
    test = corpus.split.test
    assert "not known" in str(seen_in_pretraining(None, corpus, shared_cache))
    other = {"data": {"corpus": str(tmp_path), "validation": None}}
    assert str(seen_in_pretraining(other, corpus, shared_cache)) == f"none of {len(test)}"
    data = {"corpus": str(corpus.source), "validation": None, "validation_fraction": 0.3, "min_seconds": 0.1}
    seen = seen_in_pretraining({"data": data}, corpus, shared_cache)
    validated = sum(position(name) < 0.3 for name in test)
    assert (seen.trained, seen.validated) == (len(test) - validated, validated)
    assert f"{len(test) - validated} of {len(test)} (without labels)" in str(seen)
    (tmp_path / "out.txt").write_text("\n".join(test))
    assert str(seen_in_pretraining({"data": {**data, "exclude": str(tmp_path / "out.txt")}}, corpus, shared_cache)) == (
        f"none of {len(test)}"
    )
    mixed = {"data": {**data, "corpus": {"a": str(tmp_path), "b": {"path": str(corpus.source), "weight": 2}}}}
    assert seen_in_pretraining(mixed, corpus, shared_cache) == seen
    (tmp_path / "named.txt").write_text("\n".join(f"b/{name}" for name in test))
    mixed["data"]["exclude"] = str(tmp_path / "named.txt")
    assert str(seen_in_pretraining(mixed, corpus, shared_cache)) == f"none of {len(test)}"
    validation = {"data": {**data, "corpus": str(tmp_path), "validation": str(corpus.source)}}
    assert seen_in_pretraining(validation, corpus, shared_cache).validated == len(test)
    validation["data"]["validation"] = [str(tmp_path), str(corpus.source)]
    assert seen_in_pretraining(validation, corpus, shared_cache).validated == len(test)


def test_a_comparison_is_paired(corpus, shared_cache, model) -> None:
    tasks = make_tasks(corpus, max_cells=20)
    other = make_model(seed=5)
    found = {
        name: evaluate(m, corpus, shared_cache, "context,codes", tasks)
        for name, m in (("one", model), ("same", model), ("other", other))
    }
    compared = {(c.measure, c.representation, c.checkpoint): c for c in compare(found)}
    assert {measure for measure, _, _ in compared} == {"phone probe", "ABX within", PNMI}
    for (_, _, checkpoint), entry in compared.items():
        assert entry.interval.low <= entry.interval.value <= entry.interval.high
        if checkpoint == "one":
            assert entry.difference is None
        if checkpoint == "same":
            assert (entry.difference.low, entry.difference.value, entry.difference.high) == (0, 0, 0)
    probe = compared["phone probe", "context", "other"]
    assert probe.difference.value == pytest.approx(
        probe.interval.value - compared["phone probe", "context", "one"].interval.value
    )
    assert compared["phone probe", "mfcc_stacked", "MFCC"].difference is None
