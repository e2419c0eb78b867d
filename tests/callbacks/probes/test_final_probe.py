"""FinalProbe in a trainer: its results and texts, and that it does not change the run."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from tests.callbacks.toy_runs import noise, tones, toy_model
from tests.contracts.tiny import factory
from tests.evaluation.conftest import write_labelled
from tests.modules.finetuning.recognition import pretrain, recognizer
from tests.modules.training import fit, make_trainer
from w2vlab.callbacks import FinalProbe, GracefulStop, RunReport
from w2vlab.callbacks.fault_tolerance.stopping import Stopped
from w2vlab.callbacks.probes.final_probe import _same, _weight_checksums
from w2vlab.callbacks.probes.final_probe_text import describe_gain
from w2vlab.evaluation.features.corpus import Seen
from w2vlab.evaluation.tasks.gain import Best, Gain
from w2vlab.evaluation.tasks.probe import ProbeResult
from w2vlab.functional.measures.interval import Interval
from w2vlab.modules import FuturePrediction, MaskedPrediction
from w2vlab.quantizers import EMAQuantizer, GumbelQuantizer

GUMBEL = factory(GumbelQuantizer)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("speech")
    return {"corpus": str(write_labelled(root, 10)), "cache_dir": root / "cache"}


def toy(cls: type = MaskedPrediction, quantizer: type = GumbelQuantizer) -> Any:
    return toy_model(cls, 0.005, quantizer=factory(quantizer), feature_dropout=0.2)


@pytest.mark.parametrize(("cls", "quantizer"), [(MaskedPrediction, GumbelQuantizer), (FuturePrediction, EMAQuantizer)])
def test_the_run_is_the_same_with_and_without(cls: type, quantizer: type, speech, tmp_path: Path) -> None:
    def run(*callbacks: Any) -> tuple[list[float], dict[str, torch.Tensor], torch.Tensor]:
        model = toy(cls, quantizer)
        losses = fit(model, tones(8), 4, accumulate=2, callbacks=callbacks, default_root_dir=tmp_path).losses
        return losses, model.state_dict(), torch.get_rng_state()

    probe = FinalProbe(**speech)
    (losses, weights, state), (expected, unchanged, before) = run(probe), run()
    assert probe.gain is not None
    assert losses == expected
    assert all(torch.equal(weights[name], unchanged[name]) for name in unchanged)
    assert torch.equal(state, before)


def test_all_results_are_written(speech, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probe, report, table = FinalProbe(**speech), RunReport(), CSVLogger(tmp_path, name="run", version="1")
    fit(toy(), noise(), 3, validation=noise(2), callbacks=[report, probe], logger=table, default_root_dir=tmp_path)
    folder, gain = tmp_path / "run" / "1", probe.gain
    assert gain is not None
    written = json.loads((folder / "final_probe.json").read_text())
    assert written["update"] == 3
    assert written["trained"]["accuracy"]["value"] == gain.trained.probe.accuracy
    assert written["over_mfcc"]["low"] == gain.over_mfcc.low
    assert written["before_training"] is None  # built in Python, so that its options are unknown
    assert set(written["split"]["train"]).isdisjoint(written["split"]["test"])
    (row,) = [row for row in csv.DictReader((folder / "metrics.csv").open()) if row["final_probe/accuracy"]]
    assert (int(row["step"]), float(row["final_probe/mfcc"])) == (3, pytest.approx(gain.mfcc.probe.accuracy))
    summary = json.loads((folder / "report.json").read_text())["summary"]
    output = capsys.readouterr().out
    for name, text in describe_gain(gain, 1, Seen(known=False)).rows.items():
        assert summary[name] == text
        assert name in output
    assert "Phone probe, phone probes: done in" in output


@pytest.mark.parametrize("first", [True, False])
def test_the_report_is_written_before_it_whatever_the_order(
    first: bool, speech, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []

    def measure(self: FinalProbe, trainer: Any, module: Any) -> str:
        files.append(sorted(path.name for path in tmp_path.iterdir()))
        return "skipped."

    monkeypatch.setattr(FinalProbe, "_measure", measure)
    callbacks = [FinalProbe(**speech), RunReport()]
    fit(toy(), noise(), 1, callbacks=callbacks if first else callbacks[::-1], default_root_dir=tmp_path)
    assert files == [["metrics.jsonl", "report.json", "report.png"]]


def test_without_a_report_it_prints_its_result(speech, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(toy(), noise(), 1, callbacks=[FinalProbe(**speech)], default_root_dir=tmp_path)
    output = capsys.readouterr().out
    assert "Phone probe, phones named: " in output
    assert "Phone probe, before training: unknown" in output


def test_without_labels_it_prints_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_labelled(tmp_path, 4, labels=False)
    probe = FinalProbe(corpus=str(corpus), cache_dir=tmp_path / "cache")
    fit(toy(), noise(), 1, callbacks=[probe], default_root_dir=tmp_path)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Phone probe" in line]
    assert line == f"Phone probe: skipped, because {corpus} has no phone labels."
    assert probe.gain is None


def test_a_model_that_is_not_finite_does_not_fail_the_run(speech, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    model = toy()
    with torch.no_grad():
        next(model.context.parameters()).fill_(torch.nan)
    fit(model, noise(), 1, callbacks=[FinalProbe(**speech)], default_root_dir=tmp_path)
    assert "Phone probe: failed: `features` must be finite" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_probe_and_not_the_run(
    number: signal.Signals, speech, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any) -> None:
        os.kill(os.getpid(), number)
        raise AssertionError("the probe was not interrupted")

    monkeypatch.setattr("w2vlab.evaluation.tasks.gain.measure_gain", stopped)
    probe, handler = FinalProbe(**speech), signal.getsignal(number)
    fit(toy(), noise(), 1, callbacks=[GracefulStop(), RunReport(), probe], default_root_dir=tmp_path)
    output = capsys.readouterr().out
    assert f"Phone probe: stopped by {number.name}. The run itself is finished and saved" in output
    assert "validation loss" in output
    assert signal.getsignal(number) == handler


def test_a_run_that_was_asked_to_stop_skips_the_probe(speech, tmp_path, capfd: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C at the last update is too late to stop the run."""

    class Late(RunReport):
        def on_train_end(self, *_: Any) -> None:
            signal.raise_signal(signal.SIGINT)

    probe = FinalProbe(**speech)
    fit(toy(), noise(), 1, callbacks=[GracefulStop(), probe, Late()], default_root_dir=tmp_path)
    assert probe.gain is None
    assert "Phone probe: skipped, because the run was asked to stop." in capfd.readouterr().out


def test_a_run_that_is_stopped_is_not_probed(speech, tmp_path: Path) -> None:
    class Stop(RunReport):
        def on_train_batch_end(self, *_: Any) -> None:
            raise Stopped(signal.SIGTERM)

    probe = FinalProbe(**speech)
    with pytest.raises(SystemExit):
        fit(toy(), noise(), 2, callbacks=[probe, Stop()], default_root_dir=tmp_path)
    assert probe.gain is None


def test_checksums_identify_weights() -> None:
    model, same = toy(), toy()
    first = _weight_checksums(model)
    assert _same(first, _weight_checksums(same))
    with torch.no_grad():
        next(model.context.parameters())[0] += 0.1
    assert not _same(first, _weight_checksums(model))
    assert not _same([], first)


@pytest.mark.parametrize(("name", "least"), [("num_train", 2), ("num_test", 1)])
def test_invalid_sizes(name: str, least: int) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least {least}, but is 0."):
        FinalProbe(**{name: 0})
    with pytest.raises(ValueError, match="`batch_seconds` must be positive, but is -1"):
        FinalProbe(batch_seconds=-1)


def test_invalid_modules_and_corpora_are_refused_at_the_start(tmp_path: Path) -> None:
    pretrain(tmp_path / "pretrained.ckpt")
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(), is_global_zero=True)
    with pytest.raises(ValueError, match=r"`trainer.strategy` must keep the whole model .*, but is SimpleNamespace"):
        FinalProbe().setup(trainer, toy(), "fit")
    with pytest.raises(ValueError, match="`corpus` must be an existing path or one of"):
        FinalProbe(corpus="nothing", cache_dir=tmp_path).setup(make_trainer(1), toy(), "fit")
    with pytest.raises(ValueError, match=r"`trainer.callbacks` must not contain FinalProbe if `model` is CTC"):
        FinalProbe().setup(make_trainer(1), recognizer(tmp_path / "pretrained.ckpt"), "fit")


def best(accuracy: float, representation: str = "layer 2", spread: int = 0) -> Best:
    """Ten utterances of a hundred phones, with the same accuracy up to `spread`."""
    correct = {f"u{n}": round(100 * accuracy) + (spread if n % 2 else -spread) for n in range(10)}
    probe = ProbeResult(correct=correct, total=dict.fromkeys(correct, 100), majority=0.07, penalty=1e-2)
    return Best(representation, probe, {representation: accuracy})


@pytest.mark.parametrize(
    ("before", "mfcc", "learned", "beside"),
    [
        (
            best(0.49, "layer 1"),
            best(0.716),
            "on layer 1: training has gained 9.0 points [9.0, 9.0], significant",
            "better than the network by 14.0 points [14.0, 14.0], significant",
        ),
        (
            best(0.6),
            best(0.5),
            "training has lost 2.0 points [2.0, 2.0], significant",
            "the network is better by 8.0 points [8.0, 8.0], significant",
        ),
        (
            best(0.57, spread=9),
            best(0.57, spread=9),
            "no significant difference (1.0 points [",
            "no significant difference (1.0 points [",
        ),
    ],
)
def test_texts_follow_from_the_interval(before: Best, mfcc: Best, learned: str, beside: str) -> None:
    found = describe_gain(Gain(best(0.58), before, mfcc), 10, Seen(True, total=10))
    assert found.rows["phones named"].startswith("58.0 % [58.0, 58.0] on layer 2")
    assert learned in found.rows["before training"]
    assert beside in found.rows["MFCC"]
    assert found.rows["tested on"] == "10 utterances; seen in pretraining: none of 10"
    assert [bar.value for bar in found.bars] == pytest.approx(
        [0.58, before.probe.accuracy, mfcc.probe.accuracy], abs=1e-9
    )


def test_significance_is_by_the_interval_and_not_by_the_difference() -> None:
    gain = Gain(best(0.58), best(0.57, spread=9), best(0.57))
    difference = gain.over_before
    assert isinstance(difference, Interval)
    assert difference.low < 0 < difference.value < difference.high
    assert "no significant difference" in describe_gain(gain, 10, Seen(True)).rows["before training"]


def test_a_few_utterances_are_too_few_for_significance() -> None:
    """A few utterances may have equal accuracies by chance, which would give an interval of width 0."""
    rows = describe_gain(Gain(best(0.58), best(0.49), best(0.7)), 7, Seen(True)).rows
    assert rows["before training"].endswith("the network is at +9.0 points; 7 utterances are too few for significance")
    assert rows["MFCC"].endswith("the network is at -12.0 points; 7 utterances are too few for significance")
