"""Fine-tuning from the command line: its options, its output and its files."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.cli.conftest import RUN
from w2vlab.cli.main import main
from w2vlab.evaluation.evaluate import load_model
from w2vlab.modules import CTCFineTuning, TrainedModule

ROOT = Path(__file__).parents[2]
RUN_FOLDER = Path("finetuned/w2vlab/version_0")
WITHOUT_LOGGER = Path("w2vlab/version_0")
WORDS = ("one", "two", "three")


@pytest.fixture(scope="module")
def spoken(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny corpus with transcripts, and a model that is pretrained on it for two updates."""
    folder = tmp_path_factory.mktemp("spoken")
    shutil.copytree(tiny_config.parent / "corpus", folder / "corpus")
    lines = (f"u{number:02} {WORDS[number % 3]} {WORDS[number % 2]}\n" for number in range(23))  # the last has none
    (folder / "corpus" / "all.trans.txt").write_text("".join(lines))
    data = {**RUN["data"], "corpus": str(folder / "corpus"), "cache_dir": str(folder / "cache")}
    trainer = {**RUN["trainer"], "max_steps": 2, "logger": False, "default_root_dir": str(folder / "pretraining")}
    (folder / "pretraining.yaml").write_text(yaml.safe_dump({**RUN, "data": data, "trainer": trainer}))
    assert main(["fit", f"--config={folder / 'pretraining.yaml'}"]) == 0
    model = {
        "class_path": "CTCFineTuning",
        "init_args": {
            "checkpoint": str(folder / "pretraining" / WITHOUT_LOGGER / "checkpoints" / "last.ckpt"),
            "masking": {"class_path": "ChannelMasking", "init_args": {"channel_length": 2}},
            "freeze_updates": 1,
            "scheduler": {"class_path": "TriStageSchedule", "init_args": {"total_updates": 10}},
        },
    }
    trainer = {**RUN["trainer"], "default_root_dir": "finetuned"}
    config = {"model": model, "data": {**data, "crop_to_shortest": False, "max_seconds": 1.2}, "trainer": trainer}
    config["throughput"] = RUN["throughput"]
    (folder / "finetuning.yaml").write_text(yaml.safe_dump({**config, "checkpoint": {"monitor": "val/wer"}}))
    return folder


@pytest.fixture
def finetune(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_drawing: None) -> Callable[..., int]:
    """Calls a command on the tiny fine-tuning in an empty folder, with plain tables as logs."""
    monkeypatch.chdir(tmp_path)
    fixed = [f"--config={spoken / 'finetuning.yaml'}", "--trainer.logger=CSVLogger", "--trainer.logger.name=w2vlab"]
    return lambda *args, command="fit": main([command, *fixed, *args])


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def test_a_run_logs_and_prints_like_pretraining(
    finetune: Callable[..., int], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert finetune() == 0
    output = capsys.readouterr().out
    (last,) = [line for line in output.splitlines() if line.startswith("100 %, update 4:")]
    assert all(f"{name} " in last for name in ("loss", "WER", "CER", "audio s/s"))
    assert "CTCFineTuning of MaskedPrediction to 8 characters, update 4" in output
    assert "word error rate" in output
    assert "codebook" not in output
    assert "Recognised after update 2" in caplog.text
    assert "1 without a transcript (u23.wav)" in caplog.text
    with (RUN_FOLDER / "metrics.csv").open() as file:
        names = set(next(csv.reader(file)))
    assert {"train/loss/ctc", "train/unfit_utterances", "train/gradient_norm", "val/wer", "val/cer"} <= names
    assert json.loads((RUN_FOLDER / "report.json").read_text())["validation"][-1]["update"] == 4
    assert len(list((RUN_FOLDER / "checkpoints").glob("update-*.ckpt"))) == 1, "the best one, by the error rate"


def test_a_run_is_resumed_exactly(finetune: Callable[..., int], caplog: pytest.LogCaptureFixture) -> None:
    assert finetune("--trainer.default_root_dir=whole") == 0
    assert finetune("--trainer.max_steps=2") == 0
    assert finetune("--ckpt_path=last") == 0
    assert not [record.message for record in caplog.records if record.message.startswith("resuming with")]
    whole, resumed = (
        load(Path(folder, "w2vlab", "version_0", "checkpoints", "last.ckpt")) for folder in ("whole", "finetuned")
    )
    assert whole["global_step"] == resumed["global_step"] == 4
    assert whole["w2vlab_vocabulary"] == resumed["w2vlab_vocabulary"]
    assert all(torch.equal(value, resumed["state_dict"][name]) for name, value in whole["state_dict"].items())


def test_a_checkpoint_is_scored_and_rebuilt(
    spoken: Path, finetune: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune() == 0
    last = json.loads((RUN_FOLDER / "report.json").read_text())["validation"][-1]
    capsys.readouterr()
    path = RUN_FOLDER / "checkpoints" / "last.ckpt"
    # The fine-tuned checkpoint also holds what the pretrained one did.
    assert finetune(f"--ckpt_path={path}", f"--model.checkpoint={path}", command="validate") == 0
    output = capsys.readouterr().out
    assert str(last["val/cer"])[:6] in output
    module = TrainedModule.load_from_checkpoint(path)
    assert isinstance(module, CTCFineTuning)
    assert module.vocabulary is not None
    assert "".join(module.vocabulary.entries[1:]) == " ehnortw"
    refused = "`ckpt_path` must be a checkpoint of a pretraining"
    assert main(["fit", f"--config={spoken / 'pretraining.yaml'}", f"--ckpt_path={path}"]) == 1
    assert f"error: {refused}" in capsys.readouterr().err
    with pytest.raises(ValueError, match=refused):
        load_model(path)


@pytest.mark.skipif(importlib.util.find_spec("flashlight") is None, reason='needs `pip install -e ".[decode]"`')
def test_the_decoder_is_one_flag(finetune: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    Path("lexicon.txt").write_text("one o n e |\ntwo t w o |\n")
    options = ["--model.decoder=BeamDecoder", "--model.decoder.lexicon=lexicon.txt", "--trainer.max_steps=2"]
    assert finetune(*options) == 0
    Path("lexicon.txt").write_text("one q |\n")
    assert finetune(*options) == 1
    assert (
        "error: `model.decoder.lexicon` must spell each word in units of the vocabulary, but line 1"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.checkpoint=null"], "`model.checkpoint` must be given: the file of a pretrained model"),
        (
            ["--model.checkpoint=absent.ckpt"],
            "`model.checkpoint` must be an existing checkpoint file, or a folder of transformers, but is absent.ckpt.",
        ),
        (["--model.units=phones"], "`data.corpus` must have transcripts for `model.units` phones, but "),
        (["--data.crop_to_shortest=true"], "`data.crop_to_shortest` must be false for a model that learns from"),
        (["--trainer.callbacks=GradientFlow"], "`trainer.callbacks` must not contain GradientFlow if `model` is CTC"),
    ],
)
def test_errors_have_no_traceback(
    options: list[str], message: str, finetune: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(*options) == 1
    error = capsys.readouterr().err
    assert f"error: {message}" in error
    assert "Traceback" not in error


def test_only_pretraining_is_explained(spoken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"--config={spoken / 'finetuning.yaml'}"]) == 1
    error = capsys.readouterr().err
    assert "error: `model` must be a pretraining objective to be explained, but is CTCFineTuning." in error


def test_the_small_recipe_trains(
    spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it but the size of the pretrained model, the corpus and the number of updates; with its picture."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "model.checkpoint": spoken / "pretraining" / WITHOUT_LOGGER / "checkpoints" / "last.ckpt",
        "model.masking.channel_length": 2,
        "data.corpus": spoken / "corpus",
        "data.cache_dir": spoken / "cache",
        "data.min_seconds": 0.5,
        "data.num_workers": 0,
        "data.batch_seconds": 20,
        "trainer.max_steps": 2,
        "trainer.val_check_interval": 2,
        "trainer.logger": "false",
    }
    config = ROOT / "configs" / "finetune" / "ctc.yaml"
    assert main(["fit", f"--config={config}", *(f"--{name}={value}" for name, value in settings.items())]) == 0
    assert "word error rate" in capsys.readouterr().out
    assert (tmp_path / "runs" / WITHOUT_LOGGER / "report.png").is_file()
    assert list((tmp_path / "runs").rglob("last.ckpt"))
