"""Shares, table and line of a trial, from known measurements."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from w2vlab.explain.batch_size.cost_model import BatchShape
from w2vlab.explain.speed.reading import Reading
from w2vlab.explain.speed.result import Speed, print_speed
from w2vlab.explain.speed.steps import MeasuredSteps

SHAPE = BatchShape(2, 10.0)
STEPS = MeasuredSteps(SHAPE, [5.5, 5.66, 6.1], 0.035, False, 202e9, "float32", "cpu")
BASE = Speed(STEPS, int(0.74 * 5.66 * 202e9), None, "no corpus is given", SHAPE)


def printed(speed: Speed) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_speed(speed, console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_products_of_a_large_model() -> None:
    assert BASE.shares.limit == "products"
    assert BASE.shares.parts == pytest.approx({"products": 0.74, "memory": 0.225, "host": 0.035, "data": 0}, abs=1e-3)
    assert BASE.rate == pytest.approx(20 / 5.66)
    text = printed(BASE)
    assert text.rstrip().splitlines()[-1] == BASE.line
    assert BASE.line.startswith(
        "Limited by the products: 74 % of the 5.66 s of a micro-batch are matrix products and convolutions at 202 "
        "GFLOP/s"
    )
    assert "median of 3 updates, from 5.5 s to 6.1 s" in text
    assert "not measured: no corpus is given" in text


def test_waiting_for_slow_workers() -> None:
    speed = replace(BASE, reading=Reading(rate=2.0, workers=2, batches=9))
    assert speed.waiting == pytest.approx(10 - 5.66)
    assert speed.total == pytest.approx(10)
    assert speed.shares.limit == "data"
    assert speed.shares.data == pytest.approx(0.434)
    assert speed.rate == pytest.approx(2.0)
    assert "by 2 workers, 2 s of audio a second are read; the steps use 4" in printed(speed)


def test_workers_that_keep_up_cost_nothing() -> None:
    speed = replace(BASE, reading=Reading(rate=4.0, workers=2, batches=9))
    assert speed.waiting == 0
    assert speed.shares == BASE.shares


def test_without_workers_reading_is_added() -> None:
    speed = replace(BASE, reading=Reading(rate=40.0, workers=0, batches=9))
    assert speed.waiting == pytest.approx(0.5)
    assert "by the training process, 40 s of audio a second are read" in printed(speed)


def test_a_smaller_batch_than_that_of_the_run_is_said() -> None:
    assert "the run has 9 x 10 s, which take too long for this trial" in printed(
        replace(BASE, wanted=BatchShape(9, 10.0))
    )


def test_micro_batches_that_are_computed_at_once_are_named() -> None:
    speed = replace(BASE, at_once=2)
    assert " of 2 micro-batches at once" in speed.line
    assert "Speed of 2 micro-batches at once, " in printed(speed)


def test_a_rate_that_was_measured_beside_other_programs() -> None:
    speed = replace(BASE, steps=replace(STEPS, rate=1e9))
    assert speed.shares.products == pytest.approx(1 - 0.035)


def test_one_update_has_no_spread() -> None:
    text = printed(replace(BASE, steps=replace(STEPS, times=[5.66])))
    assert "one update; 3.53 s of audio a second" in text
    assert "median" not in text


def test_what_cannot_be_measured() -> None:
    speed = replace(BASE, flops=None, steps=replace(STEPS, host=None))
    assert speed.shares.parts == pytest.approx({"device": 1.0, "data": 0.0, "host": 0.0})
    text = printed(speed)
    assert "cannot be counted" in text
    assert "it cannot be told apart here" in text


def test_it_is_valid_json() -> None:
    found = json.loads(json.dumps(BASE.as_dict(), allow_nan=False))
    assert found["limited_by"] == "products"
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["step_seconds"] == 5.66
    assert found["line"] == BASE.line
