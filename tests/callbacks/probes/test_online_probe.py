"""OnlineProbe in a trainer: its metrics, and that it does not change the run."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from tests.callbacks.toy_runs import noise, tones, toy_model
from tests.contracts.tiny import factory
from tests.evaluation.conftest import write_labelled
from tests.modules.training import fit, loader, make_trainer
from w2vlab.callbacks import OnlineProbe
from w2vlab.evaluation import evaluate, open_corpus, table_rows
from w2vlab.modules import FuturePrediction, MaskedPrediction
from w2vlab.quantizers import EMAQuantizer, FileTargets, GumbelQuantizer, IdentityQuantizer

GUMBEL = factory(GumbelQuantizer)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("speech")
    return {"corpus": str(write_labelled(root, 10)), "cache_dir": root / "cache"}


@pytest.mark.parametrize("cls", [MaskedPrediction, FuturePrediction])
@pytest.mark.parametrize("quantizer", [GumbelQuantizer, EMAQuantizer])
def test_the_run_is_the_same_with_and_without(cls: type, quantizer: type, speech, tmp_path: Path) -> None:
    def run(callbacks: list[Any]) -> tuple[list[float], dict[str, torch.Tensor]]:
        model = toy_model(cls, 0.005, quantizer=factory(quantizer), feature_dropout=0.2)
        losses = fit(model, tones(8), 4, callbacks=callbacks, accumulate=2, default_root_dir=tmp_path).losses
        return losses, model.state_dict()

    probe = OnlineProbe(every=1, **speech)
    (with_probe, weights), (without, expected) = run([probe]), run([])
    assert len(probe.history.rows) == 5
    assert with_probe == without
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_random_state_and_modes_are_restored(speech) -> None:
    model = toy_model(MaskedPrediction, 0.005, quantizer=GUMBEL, feature_dropout=0.2)
    probe, trainer = OnlineProbe(**speech), make_trainer(1)
    probe.setup(trainer, model, "fit")
    model.train()
    model.encoder.eval()  # frozen by the user
    modes = [part.training for part in model.modules()]
    before = torch.get_rng_state()
    probe._measure(trainer, model)
    assert torch.equal(torch.get_rng_state(), before)
    assert [part.training for part in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_codes_of_a_file_are_not_those_of_the_probes_audio(speech) -> None:
    model = toy_model(MaskedPrediction, 0.005, quantizer=factory(FileTargets))
    probe, trainer = OnlineProbe(**speech), make_trainer(1)
    probe.setup(trainer, model, "fit")
    assert set(probe._measure(trainer, model)) == {"accuracy"}


def test_metrics_are_those_of_an_evaluation_and_are_logged(speech, tmp_path: Path, monkeypatch) -> None:
    penalties = (1e-2, 1e-3)
    monkeypatch.setattr("w2vlab.evaluation.tasks.probe.run_probe.__defaults__", ("cpu", penalties))
    model = toy_model(MaskedPrediction, 0.005, quantizer=GUMBEL)
    table = CSVLogger(tmp_path, name="run", version="1")
    fit(
        model,
        noise(),
        3,
        callbacks=[OnlineProbe(every=2, layer="1", **speech)],
        logger=table,
        default_root_dir=tmp_path,
    )
    rows = list(csv.DictReader((tmp_path / "run" / "1" / "metrics.csv").open()))
    logged = {int(r["step"]): (float(r["probe/accuracy"]), float(r["probe/pnmi"])) for r in rows if r["probe/accuracy"]}
    assert list(logged) == [0, 2, 3]
    corpus = open_corpus(speech["corpus"], speech["cache_dir"], num_train=40, num_test=20)
    whole = evaluate(model, corpus, speech["cache_dir"], "1,codes")
    accuracy, pnmi = logged[3]
    assert accuracy == pytest.approx(table_rows(whole)[0].accuracy)
    assert pnmi == pytest.approx(whole.model.units[0].pnmi)


def test_continuous_targets_have_no_pnmi(speech, tmp_path: Path) -> None:
    model = toy_model(MaskedPrediction, 0.005, quantizer=factory(IdentityQuantizer))
    probe = OnlineProbe(every=5, layer="latents", **speech)
    fit(model, noise(), 2, callbacks=[probe], default_root_dir=tmp_path)
    assert [sorted(row) for row in probe.history.rows] == [["accuracy", "update"]] * 2


def test_a_resumed_run_continues_the_history(speech, tmp_path: Path) -> None:
    trainer = make_trainer(4, callbacks=[OnlineProbe(every=2, **speech)], default_root_dir=tmp_path)
    trainer.fit(toy_model(MaskedPrediction, 0.005, quantizer=GUMBEL), loader(noise()))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    probe = OnlineProbe(every=2, **speech)
    model = toy_model(MaskedPrediction, 0.005, quantizer=GUMBEL)
    fit(model, noise(), 6, callbacks=[probe], default_root_dir=tmp_path, ckpt_path=str(tmp_path / "half.ckpt"))
    assert [row["update"] for row in probe.history.rows] == [0, 2, 4, 6]


def test_a_corpus_without_labels_warns(tmp_path: Path) -> None:
    corpus = write_labelled(tmp_path, 4, labels=False)
    probe = OnlineProbe(every=1, corpus=str(corpus), cache_dir=tmp_path / "cache")
    with pytest.warns(UserWarning, match="OnlineProbe has no effect: .* has no phone labels"):
        fit(
            toy_model(MaskedPrediction, 0.005, quantizer=GUMBEL),
            noise(),
            2,
            callbacks=[probe],
            default_root_dir=tmp_path,
        )
    assert probe.history.rows == []


@pytest.mark.parametrize(("name", "least"), [("every", 1), ("num_train", 2), ("num_test", 1)])
def test_invalid_sizes(name: str, least: int) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least {least}, but is 0."):
        OnlineProbe(**{name: 0})


def test_invalid_layers(speech) -> None:
    model = toy_model(MaskedPrediction, 0.005, quantizer=GUMBEL)
    with pytest.raises(ValueError, match="`layer` must be one representation, but is all"):
        OnlineProbe(layer="all", **speech).setup(make_trainer(1), model, "fit")
    with pytest.raises(ValueError, match=r"`layers` must be all or some of .*, but has 9"):
        OnlineProbe(layer="9", **speech).setup(make_trainer(1), model, "fit")


def test_a_sharded_model_is_refused() -> None:
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(), is_global_zero=True)
    with pytest.raises(ValueError, match=r"`trainer.strategy` must keep the whole model .*, but is SimpleNamespace"):
        OnlineProbe().setup(trainer, toy_model(MaskedPrediction, 0.005), "fit")
