"""Models of ours, read as configuration and weights and built again."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.contracts.tiny import audio_batch
from tests.modules.finetuning.recognition import CONFIGS, VOCABULARY, fine_tune, pretrain
from w2vlab.formats import HEAD, LazyWeights
from w2vlab.modules import CTCFineTuning, PretrainingModule
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.sources import read_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def pretrained(folder: Path, request: pytest.FixtureRequest) -> Path:
    path = folder / f"{request.param}.ckpt"
    pretrain(path, request.param)
    return path


@pytest.fixture(scope="module")
def finetuned(folder: Path, pretrained: Path) -> Path:
    path = folder / f"{pretrained.stem}-speller.ckpt"
    fine_tune(path, pretrained)
    return path


def test_a_pretrained_model_is_the_one_that_was_saved(pretrained: Path) -> None:
    saved = PretrainingModule.load_from_checkpoint(pretrained).eval()
    source = read_source(pretrained)
    assert (source.vocabulary, source.missing, source.origin.format) == (None, (), "w2vlab")
    assert not {"optimizer", "scheduler"} & source.config["init_args"].keys()
    model = build_model_of(source, pretrained)
    assert type(model) is type(saved)
    assert not model.training
    assert_close(model.state_dict(), saved.state_dict(), rtol=0, atol=0)


def test_a_fine_tuned_model_is_the_one_that_was_saved(finetuned: Path) -> None:
    saved = CTCFineTuning.load_from_checkpoint(finetuned).eval()
    source = read_source(finetuned)
    assert source.vocabulary == VOCABULARY
    assert set(HEAD) <= source.weights.keys()
    model = build_model_of(source, finetuned)
    assert isinstance(model, CTCFineTuning)
    batch = audio_batch((400, 350))
    assert_close(model(batch).log_probabilities, saved(batch).log_probabilities, rtol=0, atol=0)


def test_the_pretraining_model_in_a_fine_tuned_one_has_no_random_codebooks(finetuned: Path) -> None:
    source = read_source(finetuned)
    model = build_model_of(replace(source, vocabulary=None), finetuned)
    assert isinstance(model, PretrainingModule)
    assert "loss" in source.missing
    assert (model.quantizer.num_codebooks == 0) == ("quantizer" in source.missing or "future" in finetuned.stem)
    saved = CTCFineTuning.load_from_checkpoint(finetuned).eval()
    batch = audio_batch((400, 350))
    assert_close(model.frontend()(batch).latents, saved.frontend(batch).latents, rtol=0, atol=0)


def test_a_fine_tuned_best_rq_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loss needs codes, and a file without their codebook gives none."""
    mel = {"window_samples": 15, "hop_samples": 5, "stack": 2, "num_mels": 4}  # 20 samples every 10, as the inputs
    best_rq = deepcopy(CONFIGS["masked"])
    best_rq["init_args"] |= {
        "target_encoder": {"class_path": "LogMelEncoder", "init_args": mel},
        "target_gradient": False,
        "quantizer": {"class_path": "RandomProjectionQuantizer", "init_args": {"num_codebooks": 1, "codebook_size": 5}},
        "loss": {"class_path": "CodePredictionLoss"},
        "penalties": {},
    }
    monkeypatch.setitem(CONFIGS, "best_rq", best_rq)
    pretrain(folder / "best_rq.ckpt", "best_rq")
    saved = fine_tune(folder / "best_rq-speller.ckpt", folder / "best_rq.ckpt").eval()
    model = build_model_of(read_source(folder / "best_rq-speller.ckpt"), folder / "best_rq-speller.ckpt")
    batch = audio_batch((400, 350))
    assert isinstance(model, CTCFineTuning)
    assert_close(model(batch).log_probabilities, saved(batch).log_probabilities, rtol=0, atol=0)


def test_missing_parts_are_the_same_in_every_process(finetuned: Path) -> None:
    source = replace(read_source(finetuned), vocabulary=None)
    torch.manual_seed(3)
    first = build_model_of(source, finetuned).state_dict()
    torch.manual_seed(4)
    assert_close(build_model_of(source, finetuned).state_dict(), first, rtol=0, atol=0)


def test_weights_that_do_not_fit_are_named(pretrained: Path) -> None:
    source = read_source(pretrained)
    name = next(name for name, tensor in source.weights.items() if tensor.dim() == 3)
    wrong = {**source.weights, name: torch.zeros(2, 2)}
    with pytest.raises(ValueError, match=rf"{pretrained} must have the weights .* {name} \(.*; the file: 2 x 2\)"):
        build_model_of(replace(source, weights=wrong), pretrained)
    wrong.pop(name)
    with pytest.raises(ValueError, match=rf"{name} \(.*; the file: none\)"):
        build_model_of(replace(source, weights=wrong), pretrained)


def test_a_vocabulary_of_another_size_is_an_error(finetuned: Path) -> None:
    source = read_source(finetuned)
    shorter = replace(VOCABULARY, entries=VOCABULARY.entries[:-1])
    with pytest.raises(ValueError, match=r"`head.weight` of .* must have a row for each of the"):
        build_model_of(replace(source, vocabulary=shorter), finetuned)


def test_weights_are_read_one_at_a_time(pretrained: Path) -> None:
    source = read_source(pretrained)
    alive: list[str] = []

    def reader(name: str):
        def read() -> torch.Tensor:
            alive.append(name)
            return source.weights[name]

        return read

    lazy = LazyWeights({name: reader(name) for name in source.weights})
    assert (len(lazy), list(lazy), alive) == (len(source.weights), list(source.weights), [])
    build_model_of(replace(source, weights=lazy), pretrained)
    assert sorted(alive) == sorted(source.weights)


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`init_from` must be an existing"):
        read_source(tmp_path / "none.ckpt", name="init_from")
