"""ThroughputMonitor in a run: its metrics are correct, and it does not change the run."""

from __future__ import annotations

import logging
import math
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from tests.contracts.tiny import build_model, factory
from tests.modules.training import (
    MODELS,
    constant_rate,
    fit,
    loader,
    make_batches,
    make_trainer,
    plain_sgd,
)
from w2vlab.callbacks import RunReport, ThroughputMonitor, throughput
from w2vlab.contexts import TransformerContext
from w2vlab.data.batches.loader import ResilientLoader
from w2vlab.data.fusing import fuse
from w2vlab.losses import ContrastiveLoss
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.modules.counting.flops import count_flops, fit_flops
from w2vlab.modules.counting.without_values import skeleton
from w2vlab.quantizers import EMAQuantizer, GumbelQuantizer, IdentityQuantizer
from w2vlab.types import AudioBatch

AUDIO = "train/audio_seconds_per_second"
MFU, FLOPS, WAIT, MEMORY = (
    f"train/throughput/{name}" for name in ("mfu", "flops_per_second", "data_wait_share", "peak_memory_gib")
)

SECONDS = 2 * 400 / 16_000
"""Audio in a batch of these tests."""

DEVICE_RATE = 1e9

every_model = pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)


def noisy_model(cls: type[PretrainingModule], quantizer: type = GumbelQuantizer, **parts: Any) -> PretrainingModule:
    torch.manual_seed(0)
    if cls is MaskedPrediction:
        parts = {"context": factory(TransformerContext, dropout=0.2, layer_drop=0.5), "feature_dropout": 0.2, **parts}
    arguments = {"optimizer": plain_sgd, "scheduler": constant_rate, "quantizer": factory(quantizer), **parts}
    return build_model(cls, **arguments)


class Clock:
    """Replaces the clock of `w2vlab.metrics`."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Ticking(Callback):
    """Lets a training batch take 1 s, and a validation batch 1000 s; comes before callbacks that read the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.now += 1.0

    def on_validation_batch_start(self, *_: Any) -> None:
        self.clock.now += 1000.0


class Logged(Callback):
    """Records the metrics after each batch; comes after callbacks that log."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def column(self, name: str) -> list[float | None]:
        return [row.get(name) for row in self.rows]


COUNTED: dict[str, Any] = {}
"""Cache of `fit_flops`, because it takes seconds, and most runs here have the same model."""


def counted_once(model: Any) -> Any:
    if repr(model) not in COUNTED:
        COUNTED[repr(model)] = fit_flops(model)
    return COUNTED[repr(model)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "fit_flops", counted_once)
    monkeypatch.setattr("w2vlab.metrics.time", clock)
    monkeypatch.setattr(throughput, "matmul_rate", lambda device, dtype: DEVICE_RATE)
    return clock


def watch(
    clock: Clock,
    updates: int,
    accumulate: int = 1,
    monitor: ThroughputMonitor | None = None,
    model: PretrainingModule | None = None,
    **options: Any,
) -> Logged:
    """Trains on batches of 2 x 400 samples."""
    logged = Logged()
    callbacks = [Ticking(clock), monitor or ThroughputMonitor(), logged]
    batches = make_batches(updates, accumulate, 2)
    fit(model or noisy_model(FuturePrediction), batches, updates, accumulate, callbacks=callbacks, **options)
    return logged


@pytest.mark.filterwarnings("ignore:DiversityPenalty")
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("quantizer", [GumbelQuantizer, EMAQuantizer], ids=lambda cls: cls.__name__)
@every_model
def test_a_run_is_bit_for_bit_the_same(
    cls: type[PretrainingModule], quantizer: type, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, LayerDrop and Gumbel noise, and with moving-average codebooks."""
    monkeypatch.setattr(throughput, "fit_flops", counted_once)
    batches = make_batches(3, accumulate, 3)
    plain, watched = noisy_model(cls, quantizer), noisy_model(cls, quantizer)
    expected = fit(plain, batches, 3, accumulate)
    after = torch.random.get_rng_state()
    record = fit(watched, batches, 3, accumulate, callbacks=[ThroughputMonitor()])
    assert torch.equal(torch.random.get_rng_state(), after)
    assert MFU in record.names
    assert record.losses == expected.losses
    own = {AUDIO, MFU, FLOPS, MEMORY}
    assert [{k: v for k, v in row.items() if k not in own} for row in record.metrics] == expected.metrics
    state = plain.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in watched.state_dict().items())


def test_rates_of_a_run(clock: Clock) -> None:
    model = noisy_model(FuturePrediction)
    logged = watch(clock, 5, model=model)
    assert logged.column(AUDIO) == pytest.approx([SECONDS] * 5)
    flops = count_flops(skeleton(model), 2, 400)
    assert logged.column(FLOPS) == pytest.approx([flops] * 5, rel=0.01)
    assert logged.column(MFU) == pytest.approx([flops / DEVICE_RATE] * 5, rel=0.01)
    assert WAIT not in logged.rows[-1], "a plain loader does not measure it"


def test_a_peak_rate_below_that_of_the_run_is_measured_again(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process used the device during the first measurement."""
    rates = iter([1.0, DEVICE_RATE])
    monkeypatch.setattr(throughput, "matmul_rate", lambda device, dtype: next(rates))
    logged = watch(clock, 5)
    flops = logged.rows[-1][FLOPS]
    assert flops > 1.0
    assert logged.column(MFU) == pytest.approx([flops / DEVICE_RATE] * 5, rel=0.01)


def test_all_processes_together(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = watch(clock, 2).rows[-1]
    monkeypatch.setattr(throughput, "world_size", lambda: 4)
    together = watch(clock, 2).rows[-1]
    for name in (AUDIO, FLOPS):
        assert together[name] == pytest.approx(4 * alone[name], rel=1e-6)
    assert together[MFU] == pytest.approx(alone[MFU])
    assert together[MEMORY] < 2 * alone[MEMORY]


def test_layers_that_are_dropped_do_not_count(clock: Clock) -> None:
    """Each value is for one update, with the layers that were not dropped."""

    class Kept(Callback):
        seen: list[int]

        def __init__(self) -> None:
            self.seen = []

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            self.seen.append(sum(not dropped for dropped in pl_module.context.layers.dropped))

    context = factory(TransformerContext, num_layers=6, layer_drop=0.5)
    model, kept, logged = noisy_model(MaskedPrediction, context=context), Kept(), Logged()
    callbacks = [Ticking(clock), ThroughputMonitor(window=1), kept, logged]
    fit(model, make_batches(8, 1, 2), 8, callbacks=callbacks)
    assert len(set(kept.seen)) > 2
    by_layers = dict(zip(kept.seen, logged.column(FLOPS), strict=True))
    (fewest, least), (most, largest) = min(by_layers.items()), max(by_layers.items())
    for layers, flops in by_layers.items():
        assert flops == pytest.approx(least + (largest - least) * (layers - fewest) / (most - fewest), rel=1e-5)
    whole = count_flops(skeleton(model), 2, 400)
    assert least + (largest - least) * (6 - fewest) / (most - fewest) == pytest.approx(whole, rel=0.03)


def test_validation_is_not_counted(clock: Clock) -> None:
    class Drawing(Callback):
        def on_validation_end(self, *_: Any) -> None:
            clock.now += 100.0

    logged = Logged()
    callbacks = [Ticking(clock), ThroughputMonitor(), Drawing(), logged]
    validation = make_batches(1, 1, 2)
    fit(
        noisy_model(FuturePrediction),
        make_batches(6, 1, 2),
        6,
        1,
        callbacks=callbacks,
        validation=validation,
        val_check_interval=2,
    )
    assert clock.now > 2200
    assert logged.column(AUDIO) == pytest.approx([SECONDS] * 6)
    assert logged.column(MFU) == pytest.approx([logged.rows[0][MFU]] * 6)


def test_with_accumulation_complete_updates_are_counted(clock: Clock) -> None:
    """The first micro-batch takes 5 s more, as the pass for global-batch statistics does."""

    class LookAhead(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            clock.now += 5.0 * (batch_idx % 4 == 0)

    logged = Logged()
    callbacks = [LookAhead(), Ticking(clock), ThroughputMonitor(window=1), logged]
    fit(noisy_model(FuturePrediction), make_batches(3, 4, 2), 3, 4, callbacks=callbacks)
    assert logged.column(AUDIO)[:3] == [None] * 3
    assert logged.column(AUDIO)[3:] == pytest.approx([4 * SECONDS / 9] * 9)


def test_it_logs_when_the_trainer_logs(clock: Clock, tmp_path: Path) -> None:
    table = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    logged = watch(clock, 5, log_every_n_steps=2, logger=table)
    assert [value is None for value in logged.column(AUDIO)] == [False] * 5
    assert [value is None for value in logged.column(MFU)] == [True, False, False, False, False]
    header, *rows = (Path(table.log_dir) / "metrics.csv").read_text().splitlines()
    assert {AUDIO, MFU, FLOPS, MEMORY} <= set(header.split(","))
    place = header.split(",").index(MFU)
    assert [bool(row.split(",")[place]) for row in rows] == [True, True]


def test_a_resumed_run(clock: Clock, tmp_path: Path) -> None:
    logged = [Logged(), Logged()]
    for updates, ckpt_path, one in ((3, None, logged[0]), (6, tmp_path / "first.ckpt", logged[1])):
        trainer = make_trainer(updates, callbacks=[Ticking(clock), ThroughputMonitor(), one])
        trainer.fit(noisy_model(FuturePrediction), loader(make_batches(6, 1, 2)), ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / "first.ckpt")
        clock.now += 1e6
    assert len(logged[1].rows) == 3
    for one in logged:
        assert one.column(AUDIO) == pytest.approx([SECONDS] * 3)


def test_a_fast_dev_run_writes_no_files(clock: Clock, tmp_path: Path) -> None:
    logged = watch(clock, 5, fast_dev_run=2, default_root_dir=tmp_path, logger=True)
    assert logged.column(AUDIO) == pytest.approx([SECONDS] * 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_drawing")
def test_the_report_has_the_throughput(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, logged = RunReport(), Logged()
    callbacks = [Ticking(clock), ThroughputMonitor(), report, logged]
    fit(noisy_model(FuturePrediction), make_batches(3, 1, 2), 3, callbacks=callbacks, default_root_dir=tmp_path)
    assert [row[MFU] for row in report.train.rows] == logged.column(MFU)
    assert f"{SECONDS:.4g} s of audio a second, MFU " in capsys.readouterr().out


def test_without_utilisation(clock: Clock) -> None:
    last = watch(clock, 2, monitor=ThroughputMonitor(mfu=False)).rows[-1]
    assert {MFU, FLOPS}.isdisjoint(last)
    assert {AUDIO, MEMORY} <= set(last)


class ReadingQuantizer(IdentityQuantizer):
    """Reads a value of a tensor, which the meta device does not support."""

    def forward(self, latents: torch.Tensor, padding_mask: torch.Tensor | None = None) -> Any:
        return super().forward(latents * (latents.sum().item() > -math.inf), padding_mask)


class StrangeQuantizer(IdentityQuantizer):
    """Converts to NumPy, which the meta device does not support."""

    def forward(self, latents: torch.Tensor, padding_mask: torch.Tensor | None = None) -> Any:
        latents.detach().numpy()
        return super().forward(latents, padding_mask)


class LockedQuantizer(IdentityQuantizer):
    """Cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("there can only be one")


@pytest.mark.parametrize(
    ("quantizer", "why"),
    [
        (ReadingQuantizer, "a part of the model reads values"),
        (StrangeQuantizer, "RuntimeError: "),
        (LockedQuantizer, "TypeError: there can only be one"),
    ],
)
def test_operations_that_cannot_be_counted_warn_once(
    quantizer: type, why: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "w2vlab"):
        logged = watch(clock, 4, model=noisy_model(FuturePrediction, quantizer))
    (warning,) = (entry.getMessage() for entry in caplog.records)
    assert warning.startswith(f"{MFU} is not logged, because operations cannot be counted: {why}")
    assert MFU not in logged.rows[-1]
    assert logged.column(AUDIO) == pytest.approx([SECONDS] * 4)


def test_fused_micro_batches_count_as_such(clock: Clock) -> None:
    """Three updates of 2 x 2 micro-batches, in one batch of two lengths and one second each."""
    batches = make_batches(3, 4, 2)
    fused = [fuse(batches[first : first + 4], range(4), 0.3, None) for first in range(0, 12, 4)]
    logged, monitor = Logged(), ThroughputMonitor(window=4)
    callbacks = [Ticking(clock), monitor, logged]
    fit(noisy_model(FuturePrediction), fused, 3, callbacks=callbacks)
    assert logged.column(AUDIO)[1:] == pytest.approx([4 * SECONDS] * 2)
    assert len(monitor._meter._marks) == 2, "a window of four micro-batches is one update"
    assert logged.rows[-1][FLOPS] == pytest.approx(
        count_flops(skeleton(noisy_model(FuturePrediction)), 8, 400), rel=1e-3
    )


@pytest.mark.parametrize("window", [0, -1])
def test_the_window_must_be_positive(window: int) -> None:
    with pytest.raises(ValueError, match=f"`window` must be at least 1, but is {window}."):
        ThroughputMonitor(window=window)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32-true", torch.float32),
        ("bf16-mixed", torch.bfloat16),
        ("64-true", torch.float64),
        ("bf16-true", torch.bfloat16),
    ],
)
def test_the_device_is_measured_in_the_precision_of_the_run(
    precision: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(throughput, "fit_flops", counted_once)  # of a copy in float32, for any precision
    monkeypatch.setattr(throughput, "matmul_rate", lambda *what: asked.append(what) or DEVICE_RATE)
    model = noisy_model(FuturePrediction, loss=factory(ContrastiveLoss), penalties={})
    batches = make_batches(2, 1, 2)
    if precision.endswith("true"):
        for batch in batches:
            batch.waveform = batch.waveform.to(dtype)
    fit(model, batches, 2, callbacks=[ThroughputMonitor()], precision=precision)
    assert asked == [(torch.device("cpu"), dtype)]


def test_peak_memory_is_that_of_the_process(clock: Clock) -> None:
    logged = watch(clock, 2).rows[-1][MEMORY] * 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    assert logged == pytest.approx(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, rel=0.05)
    assert logged > 2**26, "torch alone takes more than 64 MiB"


class Slow:
    """Batches that are slow to read."""

    def __init__(self, batches: Sequence[AudioBatch], seconds: float) -> None:
        self.batches = batches
        self.seconds = seconds

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> AudioBatch:
        time.sleep(self.seconds)
        return self.batches[index]


class InOrder:
    """Yields one batch after another."""

    def __init__(self, count: int) -> None:
        self.count = count

    def set_epoch(self, epoch: int) -> None:
        pass

    def __iter__(self) -> Iterator[int]:
        yield from range(self.count)


class SlowToTrain(Callback):
    """Slows down each step."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, *_: Any) -> None:
        time.sleep(self.seconds)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(("reading", "training", "low", "high"), [(0.3, 0.0, 0.5, 1.0), (0.0, 0.3, 0.0, 0.4)])
def test_waiting_for_data(num_workers: int, reading: float, training: float, low: float, high: float) -> None:
    """Either reading or training takes nearly all of the time."""
    batches: Any = Slow(make_batches(5, 1, 2), reading)
    order: Any = InOrder(5)
    logged = Logged()
    trainer = make_trainer(5, callbacks=[SlowToTrain(training), ThroughputMonitor(mfu=False), logged])
    trainer.fit(noisy_model(FuturePrediction), ResilientLoader(batches, order, num_workers))
    assert low <= logged.rows[-1][WAIT] <= high


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none")
def test_on_a_gpu_it_does_not_synchronise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Except for the first utilisation."""

    class Strict(Callback):
        """Forbids synchronisation in the monitor alone, because the trainer synchronises too."""

        def __init__(self, mode: str) -> None:
            self.mode = mode

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            torch.cuda.set_sync_debug_mode(self.mode if trainer.global_step > 1 else "default")

    logged = Logged()
    callbacks = [Strict("error"), ThroughputMonitor(), Strict("default"), logged]
    try:
        fit(
            noisy_model(MaskedPrediction),
            make_batches(4, 1, 2),
            4,
            callbacks=callbacks,
            accelerator="gpu",
            precision="bf16-mixed",
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert logged.rows[-1][MFU] > 0
    assert logged.rows[-1][MEMORY] == pytest.approx(torch.cuda.max_memory_allocated() / 2**30)
