"""The probe at the end of runs of the command line: the network before training is known there, also after a resume."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evaluation.conftest import write_labelled
from w2vlab.callbacks import FinalProbe
from w2vlab.evaluation import evaluate, open_corpus
from w2vlab.evaluation.tasks.gain import PENALTIES
from w2vlab.modules import PretrainingModule

Fit = Callable[..., int]
RUN = Path("runs/w2vlab/version_0")
FRAGMENT = Path(__file__).parents[3] / "configs" / "callbacks" / "final_probe.yaml"


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("speech"), 12)


def options(speech: Path) -> list[str]:
    data = [f"--data.corpus={speech}", f"--data.cache_dir={speech.parent / 'cache'}"]
    return [*data, f"--trainer.callbacks+={FRAGMENT}"]


def found(run: Path) -> dict[str, Any]:
    return json.loads((run / "final_probe.json").read_text())


def test_the_network_before_training_is_that_of_the_seed(
    fit: Fit, speech: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network before training is that of a run without updates, also for a resumed run."""
    assert fit(*options(speech), "--seed_everything=5", "--trainer.max_steps=2") == 0
    output = capsys.readouterr().out
    assert "phones named" in output
    assert "before training" in output
    before = found(RUN)["before_training"]
    assert fit(*options(speech), "--seed_everything=5", "--ckpt_path=last") == 0
    assert found(RUN)["update"] == 4
    assert found(RUN)["before_training"] == before

    config = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["w2vlab_config"]
    drawn: list[Any] = []

    class AtStart(FinalProbe):
        def on_train_start(self, trainer: Any, pl_module: PretrainingModule) -> None:
            drawn.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    monkeypatch.setattr("w2vlab.callbacks.FinalProbe.on_train_start", AtStart.on_train_start)
    assert fit(*options(speech), "--seed_everything=5", "--trainer.max_steps=1") == 0
    module = PretrainingModule.load_from_checkpoint(RUN / "checkpoints" / "last.ckpt").eval()
    module.load_state_dict(drawn[0])
    corpus = open_corpus(str(speech), speech.parent / "cache", num_train=40, num_test=30)
    monkeypatch.setattr("w2vlab.evaluation.tasks.probe.run_probe.__defaults__", ("cpu", PENALTIES))
    whole = evaluate(module, corpus, speech.parent / "cache", "all")
    (probe,) = [m.probe for m in whole.model.representations if m.name == before["representation"]]
    assert probe is not None
    assert before["accuracy"]["value"] == probe.accuracy
    assert config["seed_everything"] == 5
    # Without the record of the first update, the weights are uncertain, and none are reported.
    assert found(Path("runs/w2vlab/version_1"))["before_training"] is None


def test_control_c_while_it_measures_leaves_a_finished_run(
    fit: Fit, speech: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("w2vlab.evaluation.tasks.gain.measure_gain", lambda *_: signal.raise_signal(signal.SIGINT))
        assert fit(*options(speech)) == 0
    assert "Phone probe: stopped by SIGINT. The run itself is finished and saved" in capsys.readouterr().out
    assert json.loads((RUN / "run.json").read_text())["status"] == "finished"
    assert torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    assert (RUN / "report.json").is_file()
    assert not (RUN / "final_probe.json").exists()
    assert fit(*options(speech), "--ckpt_path=last") == 0
    assert found(RUN)["update"] == 4
    assert found(RUN)["before_training"] is not None


def test_a_trial_run_is_not_measured(fit: Fit, speech: Path) -> None:
    assert fit(*options(speech), "--trainer.fast_dev_run=1") == 0
    assert not list(Path().rglob("final_probe.json"))


def test_a_corpus_without_labels_is_reported_in_a_line(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(f"--trainer.callbacks+={FRAGMENT}", "--trainer.max_steps=1") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Phone probe")]
    assert len(lines) == 1
    assert lines[0].endswith("has no phone labels.")
