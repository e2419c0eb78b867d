"""CodebookHealth in a trainer: its measurements, and that they do not change the run."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure

from tests.callbacks.toy_runs import noise, tones, toy_model
from tests.contracts.tiny import audio_batch, factory
from tests.modules.training import fit, loader, make_trainer
from w2vlab.callbacks import CodebookHealth
from w2vlab.callbacks.diagnosis.codebook_picture import HealthView, draw_codebook_health
from w2vlab.callbacks.history import MetricHistory
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.quantizers import (
    EMAQuantizer,
    FileTargets,
    FiniteScalarQuantizer,
    GumbelQuantizer,
    IdentityQuantizer,
    KMeansQuantizer,
)

GUMBEL = factory(GumbelQuantizer)
VALIDATION = [audio_batch((800, 700, 430), first=100), audio_batch((620, 800), first=103)]


def model_with(quantizer: Any = GUMBEL, rate: float = 0.005) -> PretrainingModule:
    return toy_model(MaskedPrediction, rate, quantizer=quantizer, feature_dropout=0.2)


def train(
    health: CodebookHealth, folder: Path, updates: int = 6, model: PretrainingModule | None = None, **options: Any
) -> PretrainingModule:
    model = model or model_with()
    options = {"num_sanity_val_steps": 2, "val_check_interval": 2, **options}
    fit(model, noise(), updates, validation=VALIDATION, callbacks=[health], default_root_dir=folder, **options)
    return model


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "codebook_health.json").read_text())


def test_it_measures_at_the_start_at_its_interval_and_at_the_end(tmp_path: Path) -> None:
    train(CodebookHealth(every=2, num_utterances=4), tmp_path, updates=5)
    assert [look["update"] for look in content(tmp_path)["looks"]] == [0, 2, 4, 5]
    assert (tmp_path / "codebook_health.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("no_drawing")
def test_without_a_sanity_check_it_waits_for_the_first_validation(tmp_path: Path) -> None:
    train(CodebookHealth(every=1, num_utterances=4), tmp_path, num_sanity_val_steps=0, val_check_interval=3)
    assert [look["update"] for look in content(tmp_path)["looks"]] == [4, 5, 6]


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize("quantizer", [GumbelQuantizer, KMeansQuantizer, EMAQuantizer])
def test_statistics_are_over_all_frames_of_the_probe_in_evaluation(quantizer: type, tmp_path: Path) -> None:
    """Computed here in plain loops, for each utterance separately, without padding."""
    model = train(CodebookHealth(every=3, num_utterances=4), tmp_path, model=model_with(factory(quantizer)))
    model.eval()
    utterances = [audio_batch((samples,), first=100 + n) for n, samples in enumerate((800, 700, 430, 620))]
    with torch.no_grad():
        outputs = [model.quantize(batch) for batch in utterances]
    frames = [frame for output in outputs for frame in output.codes[0].tolist()]
    last = content(tmp_path)["looks"][-1]
    assert content(tmp_path)["probe"] == {"utterances": [f"utterance-{n}" for n in range(100, 104)], "num_frames": 251}
    assert len(frames) == 251
    size = model.quantizer.codebook_size
    for group in range(2):
        shares = np.bincount([frame[group] for frame in frames], minlength=size) / len(frames)
        used = shares[shares > 0]
        name = f"{group + 1}/"
        assert last[name + "perplexity_hard"] == pytest.approx(np.exp(-(used * np.log(used)).sum()), rel=1e-4)
        assert last[name + "num_dead"] == size - len(used)
        assert content(tmp_path)["last"]["dead"][group] == np.flatnonzero(shares == 0).tolist()
        assert np.divide(content(tmp_path)["last"]["counts"][group], len(frames)) == pytest.approx(shares)
        if outputs[0].probabilities is None:
            assert name + "perplexity_soft" not in last
        else:
            soft = torch.cat([output.probabilities[0, :, group] for output in outputs]).mean(dim=0).numpy()
            assert last[name + "perplexity_soft"] == pytest.approx(np.exp(-(soft * np.log(soft)).sum()), rel=1e-4)
    _, counts = np.unique(frames, axis=0, return_counts=True)
    shares = counts / len(frames)
    assert last["joint_perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


@pytest.mark.usefixtures("no_drawing")
def test_codes_change_with_the_weights(tmp_path: Path) -> None:
    train(CodebookHealth(every=2), tmp_path / "still", model=model_with(rate=0.0))
    train(CodebookHealth(every=2), tmp_path / "moving", model=model_with(rate=0.1))
    still, moving = (content(tmp_path / name)["looks"] for name in ("still", "moving"))
    assert "1/changed" not in still[0]
    assert [look["1/changed"] for look in still[1:]] == [0, 0, 0]
    assert moving[1]["1/changed"] > 0


@pytest.mark.usefixtures("no_drawing")
def test_the_probe_does_not_change(tmp_path: Path) -> None:
    """The sanity check has one of two batches; the first validation has both."""
    health = CodebookHealth(every=1, num_utterances=16)
    train(health, tmp_path, num_sanity_val_steps=1)
    assert content(tmp_path)["probe"]["utterances"] == [f"utterance-{n}" for n in (100, 101, 102, 103, 104)]
    assert [batch.waveform.device.type for batch in health._probe] == ["cpu", "cpu"]


@pytest.mark.usefixtures("no_drawing")
def test_probe_utterances_are_not_padded_more_than_needed(tmp_path: Path) -> None:
    health = CodebookHealth(num_utterances=4)
    train(health, tmp_path)
    assert [batch.waveform.shape for batch in health._probe] == [(3, 800), (1, 620)]


@pytest.mark.usefixtures("one_drawing")
@pytest.mark.parametrize("cls", [MaskedPrediction, FuturePrediction])
def test_the_run_is_the_same_with_and_without(cls: type, tmp_path: Path) -> None:
    def losses(callbacks: list[Any]) -> list[float]:
        model = toy_model(cls, 0.005, quantizer=GUMBEL, feature_dropout=0.2)
        options = {"num_sanity_val_steps": 2, "val_check_interval": 2, "default_root_dir": tmp_path}
        return fit(model, tones(8), 8, validation=VALIDATION, callbacks=callbacks, accumulate=2, **options).losses

    assert losses([CodebookHealth(every=1)]) == losses([])


def test_random_state_and_modes_are_restored(tmp_path: Path) -> None:
    model = model_with()
    health = CodebookHealth()
    health._probe = VALIDATION
    health._active = True
    model.train()
    model.encoder.eval()  # frozen by the user
    modes = [module.training for module in model.modules()]
    before = torch.get_rng_state()
    codes, _ = health._quantize(make_trainer(1), model)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    assert not any(row.requires_grad for row in codes)
    assert [len(row) for row in codes] == [model.encoder.num_frames(n) for n in (800, 700, 430, 620, 800)]


@pytest.mark.usefixtures("no_drawing")
def test_a_resumed_run_continues_the_history(tmp_path: Path) -> None:
    trainer = make_trainer(4, callbacks=[CodebookHealth(every=2)], default_root_dir=tmp_path, num_sanity_val_steps=2)
    trainer.fit(model_with(), loader(noise()), loader(VALIDATION))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    train(CodebookHealth(every=2), tmp_path, updates=6, ckpt_path=str(tmp_path / "half.ckpt"))
    looks = content(tmp_path)["looks"]
    assert [look["update"] for look in looks] == [0, 2, 4, 6]
    assert all("1/changed" in look for look in looks[1:])


def test_codes_of_a_file_are_those_of_the_crops_of_the_probe(tmp_path: Path) -> None:
    """A batch has more utterances than the probe still needs; each crop begins within its utterance."""
    health = CodebookHealth(every=2, num_utterances=4)
    crops = [replace(batch, starts=tuple(10 * row for row in range(len(batch)))) for batch in VALIDATION]
    model = model_with(factory(FileTargets))
    fit(model, noise(), 2, validation=crops, callbacks=[health], default_root_dir=tmp_path, num_sanity_val_steps=2)
    table = model.quantizer.files.tables[0]
    for name, codes, row in zip(health._ids, health._codes, (0, 1, 2, 0), strict=True):
        assert codes.tolist() == table.codes(name)[row : row + len(codes)].tolist()
    assert all(look["1/changed"] == 0 for look in content(tmp_path)["looks"][1:])


def test_a_quantizer_without_codebooks_warns_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="CodebookHealth has no effect: IdentityQuantizer has no codebooks") as caught:
        train(CodebookHealth(every=1), tmp_path, model=model_with(factory(IdentityQuantizer)))
    assert len([warning for warning in caught if "CodebookHealth" in str(warning.message)]) == 1
    assert not list(tmp_path.glob("codebook_health.*"))


def test_a_run_without_validation_warns(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="CodebookHealth has no effect: its probe is from the validation"):
        fit(model_with(), noise(), 2, callbacks=[CodebookHealth(every=1)], default_root_dir=tmp_path)


class Poison(Callback):
    """Updates that are not finite are skipped, but a checkpoint may have NaN weights."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == 3:
            for parameter in pl_module.parameters():
                parameter.data.fill_(torch.nan)


@pytest.mark.parametrize("quantizer", [GumbelQuantizer, FiniteScalarQuantizer])
def test_weights_that_are_not_finite_leave_valid_json(quantizer: type, tmp_path: Path) -> None:
    options = {"validation": VALIDATION, "num_sanity_val_steps": 2, "default_root_dir": tmp_path}
    callbacks = [Poison(), CodebookHealth(every=2)]
    fit(model_with(factory(quantizer)), noise(), 6, callbacks=callbacks, **options)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    looks = json.loads((tmp_path / "codebook_health.json").read_text(), parse_constant=refuse)["looks"]
    assert [look["update"] for look in looks] == [0, 2, 4, 6]
    if quantizer is GumbelQuantizer:
        assert looks[0]["1/perplexity_soft"] > 1
        assert looks[-1]["1/perplexity_soft"] is None


def test_a_fast_dev_run_writes_no_files(tmp_path: Path) -> None:
    train(CodebookHealth(every=1), tmp_path, fast_dev_run=True)
    assert not list(tmp_path.glob("codebook_health.*"))


@pytest.mark.usefixtures("no_drawing")
def test_metrics_are_logged(tmp_path: Path) -> None:
    table = CSVLogger(tmp_path, name="run", version="1")
    train(CodebookHealth(every=3, num_utterances=4), tmp_path, logger=table)
    rows = list(csv.DictReader((tmp_path / "run" / "1" / "metrics.csv").open()))
    logged = {int(row["step"]): float(value) for row in rows if (value := row["codebook_health/2/perplexity_hard"])}
    looks = json.loads((tmp_path / "run" / "1" / "codebook_health.json").read_text())["looks"]
    assert logged == {look["update"]: pytest.approx(look["2/perplexity_hard"]) for look in looks}


@pytest.mark.parametrize("name", ["every", "num_utterances"])
def test_invalid_options(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, but is 0."):
        CodebookHealth(**{name: 0})


def test_a_sharded_model_is_refused() -> None:
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(), is_global_zero=True)
    with pytest.raises(ValueError, match=r"`trainer.strategy` must keep the whole model .*, but is SimpleNamespace"):
        CodebookHealth().setup(trainer, model_with(), "fit")


def view(groups: int, looks: int = 3, size: int = 6) -> HealthView:
    history = MetricHistory()
    for look in range(looks):
        names = ("perplexity_hard", "perplexity_soft", "num_dead", "next_code_entropy", *(["changed"] if look else []))
        history.record(100 * look, {f"{group + 1}/{name}": 0.5 for group in range(groups) for name in names})
    codes = torch.arange(50 * groups).view(50, groups) % (size - 1)  # one entry is dead
    counts = torch.stack([torch.bincount(codes[:, group], minlength=size) for group in range(groups)]).float()
    return HealthView(title="A title", history=history, counts=counts, codes=codes, frame_seconds=0.02)


def panels(figure: Figure) -> dict[str, Any]:
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def test_picture_shows_usage_codes_and_history() -> None:
    figure = draw_codebook_health(view(groups=2))
    figure.savefig(io.BytesIO())
    shown = panels(figure)
    assert set(shown) == {
        *("Usage, most used first", "Codes of one utterance", "Perplexity (entries)"),
        *("Dead entries (not chosen on the probe)", "Share of frames with another code"),
        "Entropy of the next code (bits a frame)",
    }
    usage = [text.get_text() for text in shown["Usage, most used first"].get_legend().get_texts()]
    assert usage == ["codebook 1: 1 of 6 dead", "codebook 2: 1 of 6 dead", "uniform usage"]
    raster = shown["Codes of one utterance"]
    assert raster.images[0].get_array().shape == (2, 50)
    assert raster.get_xlim() == (0, 1)  # 50 frames of 20 ms
    assert raster.get_xlabel() == "time (s)"


def test_picture_of_many_codebooks_says_how_many_it_shows() -> None:
    figure = draw_codebook_health(view(groups=40))
    figure.savefig(io.BytesIO())
    assert "Usage, most used first\n(codebooks 1 to 4 of 40)" in panels(figure)
    assert "Codes of one utterance\n(codebooks 1 to 32 of 40)" in panels(figure)


def with_values(values: list[float], changed: list[float], size: int = 6) -> HealthView:
    shown = view(groups=1, looks=0, size=size)
    for look, value in enumerate(values):
        names = ("perplexity_hard", "perplexity_soft", "num_dead", "next_code_entropy")
        shares = {"1/changed": changed[look - 1]} if look else {}
        shown.history.record(100 * look + 100, {f"1/{name}": value for name in names} | shares)
    return shown


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        ([33.0, 27.0, 34.0], [0.0, 1.0]),  # close together and far above 0: the margin was a share of their range
        ([0.0, 0.0, 0.0], [0.0, 0.0]),
        ([1.0], []),
        ([0.0], []),
        ([40.0, 0.0], [1.0]),
    ],
)
def test_no_marker_is_clipped(values: list[float], changed: list[float]) -> None:
    figure = draw_codebook_health(with_values(values, changed))
    figure.savefig(io.BytesIO())
    marks = 0
    series = [axes for axes in panels(figure).values() if axes.get_xlabel() == "update"]
    assert len(series) == 4
    for axes in series:
        box = axes.get_window_extent()
        for line in axes.lines:
            radius = line.get_markersize() / 2 * figure.dpi / 72
            for x, y in axes.transData.transform(line.get_xydata()):
                marks += 1
                assert box.x0 + radius < x < box.x1 - radius
                assert box.y0 + radius < y < box.y1 - radius
    assert marks == 4 * len(values) + len(changed)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_panels_do_not_overlap(groups: int) -> None:
    figure = draw_codebook_health(view(groups, looks=1))
    figure.savefig(io.BytesIO())
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
