"""The division of the time, and the line about it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from w2vlab.callbacks.speed.limits import (
    METRICS,
    Shares,
    divide,
    flops_rate,
    limit_line,
    remedy,
    shares_of,
    short_text,
    span,
    typical,
)


def shares(data: float, host: float, memory: float | None, products: float | None) -> Shares:
    return Shares(data=data, host=host, memory=memory, products=products)


def test_on_a_cpu_the_four_are_disjoint() -> None:
    found = divide(0.1, 0.2, 0.3, asynchronous=False)
    assert found.parts == pytest.approx({"memory": 0.4, "products": 0.3, "host": 0.2, "data": 0.1})
    assert list(found.parts) == ["memory", "products", "host", "data"]
    assert found.limit == "memory"


def test_products_beside_the_host_gain_nothing() -> None:
    """A GPU computes products in 30 % of the time, three quarters of which the host sets the pace."""
    found = divide(0.0, 0.75, 0.3, asynchronous=True)
    assert found.parts == pytest.approx({"host": 0.75, "memory": 0.175, "products": 0.075, "data": 0.0})
    waiting = divide(0.5, 0.25, 0.3, asynchronous=True)  # none of the products are in the time of waiting
    assert waiting.products == pytest.approx(0.15)
    assert divide(1.0, 0.0, 0.3, asynchronous=True).parts["data"] == 1


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("data", [-0.1, 0.0, 0.6, 1.2])
@pytest.mark.parametrize("host", [-0.1, 0.0, 0.6, 1.2])
@pytest.mark.parametrize("utilisation", [None, 0.0, 0.4, 1.1])
def test_the_sum_is_one(data: float, host: float, utilisation: float | None, asynchronous: bool) -> None:
    parts = divide(data, host, utilisation, asynchronous).parts
    assert sum(parts.values()) == pytest.approx(1)
    assert min(parts.values()) >= 0
    assert ("device" in parts) == (utilisation is None)


def test_metrics_and_back() -> None:
    for each in (shares(0.1, 0.2, 0.3, 0.4), shares(0.1, 0.2, None, None)):
        assert shares_of({"update": 3, **each.metrics()}) == each
    assert sum(shares(0.1, 0.2, 0.3, 0.4).metrics().values()) == pytest.approx(1)
    assert shares_of({"train/throughput/mfu": 0.3}) is None
    assert shares_of({**shares(0.1, 0.2, 0.3, 0.4).metrics(), METRICS["host"]: math.nan}) is None


def test_medians_of_a_run() -> None:
    assert typical([]) is None
    usual = shares(0.125, 0.25, 0.375, 0.25)
    assert typical([shares(0.9, 0.1, 0.0, 0.0), usual, usual]) == usual
    found = typical([shares(0.0, 0.2, 0.4, 0.4), shares(0.4, 0.0, 0.2, 0.4), shares(0.2, 0.4, 0.0, 0.4)])
    assert found is not None
    assert sum(found.parts.values()) == pytest.approx(1)
    assert found.limit == "products"


def test_rows_before_operations_were_counted_do_not_count() -> None:
    found = typical([shares(0.9, 0.1, None, None), shares(0.25, 0.25, 0.25, 0.25)])
    assert found == shares(0.25, 0.25, 0.25, 0.25)
    assert typical([shares(0.75, 0.25, None, None)]) == shares(0.75, 0.25, None, None)


def test_the_cell_of_the_table() -> None:
    assert short_text(shares(0.02, 0.04, 0.2, 0.74)) == "products: 74 % of the time; memory 20 %, host 4 %, data 2 %"


@pytest.mark.parametrize(
    ("found", "start", "end"),
    [
        (
            shares(0.0, 0.04, 0.22, 0.74),
            "Limited by the products: 74 % of the 5.66 s of a micro-batch are matrix products and convolutions at "
            "202 GFLOP/s (memory 22 %, host 4 %, data 0 %). ",
            "(--trainer.precision=auto or bf16-mixed), or use more or faster devices, or a smaller model.",
        ),
        (shares(0.0, 0.8, 0.1, 0.1), "Limited by the host: in 80 % of the 5.66 s of a micro-batch, Python", "."),
        (
            shares(0.8, 0.0, 0.1, 0.1),
            "Limited by the data: in 80 % of the 5.66 s of a micro-batch, training waits",
            ".",
        ),
        (shares(0.0, 0.1, 0.8, 0.1), "Limited by memory: 80 % of the 5.66 s of a micro-batch read and write", "."),
        (shares(0.1, 0.1, None, None), "Limited by the device: 80 % of the 5.66 s of a micro-batch", "."),
    ],
)
def test_the_line(found: Shares, start: str, end: str) -> None:
    line = limit_line(found, 5.66, 202e9, "cpu", torch.float32)
    assert line.startswith(start)
    assert line.endswith(end)
    assert "\n" not in line


def test_a_step_of_several_micro_batches_is_named() -> None:
    line = limit_line(shares(0.8, 0.0, 0.1, 0.1), 5.66, 202e9, "cpu", torch.float32, 4)
    assert line.startswith("Limited by the data: in 80 % of the 5.66 s of 4 micro-batches at once, training waits")


@pytest.mark.parametrize(
    ("limit", "device", "dtype", "names"),
    [
        ("data", "cpu", None, ["--data.num_workers", "w2vlab prepare --shards"]),
        ("host", "cpu", None, ["--data.fuse_seconds", "w2vlab batch-size"]),
        ("host", "cuda", torch.bfloat16, ["--data.fuse_seconds", "CompileModel"]),
        ("memory", "cuda", torch.bfloat16, ["CompileModel", "--data.batch_seconds"]),
        ("products", "cuda", torch.float32, ["--trainer.precision=auto"]),
    ],
)
def test_what_to_do(limit: str, device: str, dtype: Any, names: list[str]) -> None:
    assert all(name in remedy(limit, device, dtype) for name in names)


def test_nothing_that_is_done_already_is_advised() -> None:
    assert "precision" not in remedy("products", "cuda", torch.bfloat16)
    assert "CompileModel" not in remedy("host", "cpu", torch.float32)


def test_units() -> None:
    assert (span(5.664), span(0.0472)) == ("5.66 s", "47.2 ms")
    assert (flops_rate(202.3e9), flops_rate(7.5e14)) == ("202 GFLOP/s", "750 TFLOP/s")
