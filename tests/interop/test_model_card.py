"""The model card: what is known of a run, nothing personal, nothing invented."""

from __future__ import annotations

import getpass
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.interop.toys import save, save_finetuned, toy_model
from w2vlab.formats import PublishedModel
from w2vlab.interop.model_card import model_card
from w2vlab.interop.run_facts import RunFacts, collect_facts, public_command, public_name
from w2vlab.modules.checkpoints.plain import CONFIG
from w2vlab.modules.sources import read_source

RECORD = {
    "command": ["/opt/venv/bin/w2vlab", "fit", "--config=base", "--data.corpus=/home/anna/voices"],
    "folder": "/home/anna/project",
    "host": "annas-laptop",
    "git": {"commit": "0123abc", "changed": False},
    "device": "cpu, 2 cores",
    "processes": 2,
    "versions": {"w2vlab": "0.1.0", "torch": "2.14.1", "wandb": None, "a\nb": "1"},
    "continued": [],
}
VALIDATION = {"update": 1800, "val/loss/total": 3.3416, "val/accuracy": 0.1908, "val/codebook/perplexity_hard": 68.89}
REPORT = {"seconds": 7200.0, "audio_seconds": 14_400.0, "validation": {"rows": [{"update": 0}, VALIDATION]}}
EVALUATION = {
    "checkpoint": "/home/anna/last.ckpt",
    "corpus": {"name": "festvox-ru"},
    "table": [{"name": "latents"}, {"name": "context", "accuracy": 0.484, "abx": {"within": 0.123}}],
    "sources": {"model": {"units": [{"name": "joint", "pnmi": 0.392}]}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the folder of its run."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    model = toy_model()
    model.run_config = {**model.run_config, "data": {"corpus": "/home/anna/voices"}}
    more = {"global_step": 1800, "callbacks": {"RunReport": REPORT}}
    path = save(model, folder / "checkpoints" / "last.ckpt", **more)
    (folder / "run.json").write_text(json.dumps(RECORD))
    (folder / "evaluation" / "last").mkdir(parents=True)
    (folder / "evaluation" / "last" / "evaluation.json").write_text(json.dumps(EVALUATION))
    return path


@pytest.fixture(scope="module")
def model(run: Path) -> PublishedModel:
    return read_source(run)


def facts_of(path: Path) -> RunFacts:
    return collect_facts(torch.load(path, weights_only=True), path)


def test_the_facts_of_a_run(run: Path, model: PublishedModel) -> None:
    card = model_card(model, facts_of(run))
    for line in (
        "* Quantizer: GumbelQuantizer, 2 x 5 entries",
        "* Data: voices",
        "* Updates: 1,800",
        "* Audio: 4.00 hours, all epochs together",
        "* Audio of an update: 8.0 s",
        "* Time: 2.00 h on 2 x cpu, 2 cores",
        "* Versions: w2vlab 0.1.0, torch 2.14.1",
        "    w2vlab fit --config=base --data.corpus=voices",
        "| validation loss | 3.342 |",
        "| validation accuracy | 19.1 % |",
        "| perplexity of the codes | 68.9 |",
        "| phone probe on the contexts, accuracy | 48.4 % |",
        "| ABX error of the contexts within speakers | 12.3 % |",
        "| mutual information of phones and codes (PNMI) | 39.2 % |",
        "Phones and codes were measured on festvox-ru by `w2vlab evaluate`.",
    ):
        assert f"\n{line}\n" in card, line
    assert "across speakers" not in card  # it was not measured
    num_weights = sum(tensor.numel() for tensor in toy_model().state_dict().values())
    assert f"* Parameters: {num_weights:,}\n" in card


@pytest.mark.parametrize(
    ("source", "name", "linked"),
    [
        ("hf:facebook/wav2vec2-base@main", "hf:facebook/wav2vec2-base@main", "facebook/wav2vec2-base"),
        ("/home/anna/theirs", "theirs", None),
    ],
)
def test_a_continued_model_names_its_source(
    source: str, name: str, linked: str | None, model: PublishedModel, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    parts = [{"part": "encoder", "loaded": True}, {"part": "quantizer", "loaded": False}, 3]
    (tmp_path / "run.json").write_text(json.dumps({**RECORD, "warm_start": {"source": source, "parts": parts}}))
    config = {"model": {"init_args": {"init_from": source}}, "data": {"corpus": "voices"}}
    facts = collect_facts({"global_step": 2, CONFIG: config}, tmp_path / "checkpoints" / "last.ckpt")
    card = model_card(model, facts)
    assert f"\n* Continued from: {name} (encoder); what follows is this run alone\n* Data: voices\n" in card
    assert yaml.safe_load(card.split("---\n", 2)[1]).get("base_model") == linked
    assert "anna" not in card


def test_nothing_personal(run: Path, model: PublishedModel) -> None:
    card = model_card(model, facts_of(run))
    for text in ("anna", "/home", "/opt", "laptop", "0123abc", str(run.parent)):
        assert text not in card, text


def test_the_front_matter(run: Path, model: PublishedModel, tmp_path: Path) -> None:
    """Language and license are for the author."""
    finetuned = read_source(save_finetuned(toy_model(), tmp_path / "ctc.ckpt"))
    for found, plain, task, auto in (
        (model, False, "feature-extraction", "AutoModelForPreTraining"),
        (model, True, "feature-extraction", "AutoModel"),
        (finetuned, False, "automatic-speech-recognition", "AutoModelForCTC"),
    ):
        card = model_card(found, RunFacts(), plain)
        _, front, body = card.split("---\n", 2)
        content = yaml.safe_load(front)
        assert set(content) == {"library_name", "pipeline_tag", "tags"}
        assert (content["library_name"], content["pipeline_tag"]) == ("transformers", task)
        assert f"model = {auto}.from_pretrained(" in body
        assert "# license: " in front
        assert "# language: " in front


def test_what_is_not_known_is_left_out(model: PublishedModel, tmp_path: Path) -> None:
    facts = collect_facts({}, tmp_path / "last.ckpt")
    assert facts == RunFacts()
    card = model_card(model, facts)
    assert "## Training" not in card
    assert "## Figures" not in card
    assert not re.search(r"\bNone\b|\bnan\b|\bunknown\b", card)


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"global_step": "many", "callbacks": [], CONFIG: 3},
        {"global_step": -1, "callbacks": {"RunReport": {"audio_seconds": float("nan"), "validation": {"rows": [3]}}}},
        {CONFIG: {"data": {"corpus": 7}}, "callbacks": {"RunReport": {"validation": {"rows": [{"val/wer": "low"}]}}}},
    ],
)
def test_wrong_values_are_left_out(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "evaluation" / "last").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "run.json").write_text('{"command": "w2vlab", "continued": 3, "versions": [], "device": 4}')
    (folder / "evaluation" / "last" / "evaluation.json").write_text('{"table": 1, "sources": [], "corpus": "x"}')
    assert collect_facts(checkpoint, folder / "checkpoints" / "last.ckpt") == RunFacts()
    (folder / "run.json").write_text("{")
    assert collect_facts(checkpoint, folder / "checkpoints" / "last.ckpt") == RunFacts()


def test_text_of_a_file_has_no_meaning_in_the_card(model: PublishedModel) -> None:
    card = model_card(model, RunFacts(corpora=["<script>\n# [x](y)"], device="`a`"))
    assert "<script>" not in card.replace("\\<script\\>", "")
    assert "\n# [x]" not in card


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["w2vlab", "fit", "--config", "quickstart"], "w2vlab fit --config quickstart"),
        (["--config=configs/base.yaml", "--model=X"], "--config=configs/base.yaml --model=X"),
        (["--data.corpus=/data/private/x.jsonl.gz"], "--data.corpus=x.jsonl.gz"),
        (["--data.corpus", "~/speech/"], "--data.corpus speech"),
        (["--data={corpus: /home/anna/voices, exclude: a/b}"], "--data={corpus: voices, exclude: a/b}"),
        (["--trainer.logger.init_args.entity=lab"], "--trainer.logger.init_args.entity=…"),
        (["--api_key", "0123", "--seed", "1"], "--api_key … --seed 1"),
        (["--api-key=0123"], "--api-key=…"),
        (["--trainer.logger=https://me:secret@host/x"], "--trainer.logger=…"),
        ([f"--name={getpass.getuser()}-first"], "--name=…-first"),
        (["a\nb\x1b[2J"], "a\\nb\\x1b[2J"),
    ],
)
def test_a_public_command(words: list[str], shown: str) -> None:
    assert public_command(words) == shown


def test_public_names() -> None:
    assert public_name("festvox-ru") == "festvox-ru"
    assert public_name("sample") == "a sample corpus of w2vlab"
    assert public_name("/mnt/data/librispeech") == "librispeech"
    assert public_name(str(Path.home())) == public_name("/") == "…"
