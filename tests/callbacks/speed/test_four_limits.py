"""Four runs, each limited by something else, and what they say about it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from tests.callbacks.test_throughput import InOrder, Logged, Slow, counted_once, noisy_model
from tests.modules.training import make_batches, make_trainer
from w2vlab.callbacks import RunReport, ThroughputMonitor, throughput
from w2vlab.callbacks.speed.limits import shares_of
from w2vlab.data.batches.loader import ResilientLoader
from w2vlab.modules import FuturePrediction
from w2vlab.quantizers import IdentityQuantizer

UPDATES = 6


class Multiplying(IdentityQuantizer):
    """Products of large matrices, on which the result hardly depends."""

    def forward(self, latents: torch.Tensor, padding_mask: torch.Tensor | None = None) -> Any:
        wide = latents.new_full((latents.shape[-1], 1024), 0.1)
        square = latents.new_full((1024, 1024), 1e-3)
        frames = latents @ wide
        for _ in range(6):
            frames = frames @ square
        return super().forward(latents + 1e-9 * (frames @ wide.T), padding_mask)


class Copying(IdentityQuantizer):
    """Reads and writes large tensors."""

    def forward(self, latents: torch.Tensor, padding_mask: torch.Tensor | None = None) -> Any:
        frames = latents.detach()[..., None].expand(*latents.shape, 4096)
        for _ in range(3):
            frames = frames * 1.0001
        return super().forward(latents + 1e-9 * frames.mean(-1), padding_mask)


def run(quantizer: type = IdentityQuantizer, size: int = 2, samples: int = 400, reading: float = 0.0) -> Logged:
    batches: Any = Slow(make_batches(UPDATES, 1, size, (samples,)), reading)
    order: Any = InOrder(UPDATES)
    logged = Logged()
    trainer = make_trainer(UPDATES, callbacks=[ThroughputMonitor(), logged])
    trainer.fit(noisy_model(FuturePrediction, quantizer), ResilientLoader(batches, order, 0))
    return logged


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns what the monitor has logged."""
    return [record.getMessage() for record in caplog.records if record.name == throughput.__name__]


@pytest.mark.parametrize(
    ("limit", "options"),
    [
        ("host", {}),
        ("data", {"reading": 0.3}),
        ("products", {"quantizer": Multiplying, "size": 6, "samples": 1600}),
        ("memory", {"quantizer": Copying, "size": 6, "samples": 1600}),
    ],
)
def test_a_run_says_what_limits_it(
    limit: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(throughput, "fit_flops", counted_once)
    with caplog.at_level(logging.INFO, "w2vlab.callbacks.throughput"):
        logged = run(**options)
    shares = shares_of(logged.rows[-1])
    assert shares is not None
    assert shares.limit == limit
    assert sum(shares.parts.values()) == pytest.approx(1)
    start = "Limited by memory: " if limit == "memory" else f"Limited by the {limit}: "
    first, last = lines(caplog)
    assert first.startswith(start)
    assert last.startswith(f"The whole run: {start}")


@pytest.mark.usefixtures("no_drawing")
def test_the_table_of_the_report_says_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    monkeypatch.setattr(throughput, "fit_flops", counted_once)
    batches: Any = Slow(make_batches(UPDATES, 1, 2), 0.2)
    order: Any = InOrder(UPDATES)
    callbacks = [ThroughputMonitor(), RunReport()]
    trainer = make_trainer(UPDATES, callbacks=callbacks, default_root_dir=tmp_path)
    with caplog.at_level(logging.INFO, "w2vlab.callbacks.throughput"):
        trainer.fit(noisy_model(FuturePrediction), ResilientLoader(batches, order, 0))
    cells = [line.split("│")[1:3] for line in capsys.readouterr().out.splitlines() if line.count("│") == 3]
    (cell,) = (value for name, value in cells if name.strip() == "limited by")
    assert cell.strip().startswith("data: ")
    assert len(lines(caplog)) == 1, "the line at the end is that of the table"


def test_without_operations_the_device_is_not_divided(caplog: pytest.LogCaptureFixture) -> None:
    batches: Any = Slow(make_batches(UPDATES, 1, 6, (1600,)), 0.0)
    order: Any = InOrder(UPDATES)
    logged = Logged()
    trainer = make_trainer(UPDATES, callbacks=[ThroughputMonitor(mfu=False), logged])
    with caplog.at_level(logging.INFO, "w2vlab.callbacks.throughput"):
        trainer.fit(noisy_model(FuturePrediction, Copying), ResilientLoader(batches, order, 0))
    shares = shares_of(logged.rows[-1])
    assert shares is not None
    assert (shares.limit, shares.memory, shares.products) == ("device", None, None)
    assert lines(caplog)[0].startswith("Limited by the device: ")
