"""Two processes give the same update and the same statistics as one with the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.ddp.processes import in_two_processes
from tests.ddp.worker import ACCUMULATE, CASES, UPDATES, UTTERANCES, run, train, train_mixed, train_noisy
from tests.modules.training import MODELS, NoiselessGumbel, gradients_by_hand, make_batches, make_model
from w2vlab.utils.distributed import all_reduce_sum, is_distributed, rank, world_size


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    return in_two_processes(run, folder)


every_layout = pytest.mark.parametrize("accumulate", ACCUMULATE)
every_case = pytest.mark.parametrize(("cls", "quantizer"), CASES, ids=lambda cls: cls.__name__)


@pytest.fixture(scope="module")
def alone() -> Callable[[type, type], dict[str, Any]]:
    """The same training in one process, once for each case."""
    return cache(train)


@every_layout
@every_case
def test_update_is_that_of_one_process(
    ranks: list[dict[str, Any]], alone: Callable[..., dict[str, Any]], cls: type, quantizer: type, accumulate: int
) -> None:
    """Five updates of 2 x 4 and 2 x 2 x 2 utterances are those of 1 x 8, in float64, moving averages included."""
    expected = alone(cls, quantizer)
    for process in ranks:
        result = process[f"{cls.__name__}-{quantizer.__name__}-{accumulate}"]
        assert set(result["state"]) == set(expected["state"])
        for name, value in expected["state"].items():
            assert_close(result["state"][name], value, rtol=1e-8, atol=1e-11, msg=lambda text, n=name: f"{n}: {text}")


@every_layout
@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_gradients_are_those_of_one_division(ranks: list[dict[str, Any]], cls: type, accumulate: int) -> None:
    """Each loss is divided by the count over both processes; by hand, one process sums all losses and divides once."""
    batches = make_batches(1, 1, UTTERANCES, samples=(400, 310))
    expected = gradients_by_hand(make_model(cls, NoiselessGumbel, diversity=True), batches)
    for process in ranks:
        assert_close(process[f"gradients-{cls.__name__}-{accumulate}"], expected, rtol=1e-12, atol=1e-14)


def test_float32_differs_by_rounding_only(ranks: list[dict[str, Any]]) -> None:
    expected = train(*CASES[0], precision="32-true")["state"]
    for process in ranks:
        for name, value in expected.items():
            assert_close(process["float32"]["state"][name], value, rtol=1e-4, atol=1e-6)


@every_layout
@every_case
def test_logs_are_those_of_one_process(
    ranks: list[dict[str, Any]], alone: Callable[..., dict[str, Any]], cls: type, quantizer: type, accumulate: int
) -> None:
    """Perplexities, use of the codebooks, shares and all: the same on both, and equal to one process's."""
    logged = alone(cls, quantizer)["metrics"]
    first, second = (process[f"{cls.__name__}-{quantizer.__name__}-{accumulate}"]["metrics"] for process in ranks)
    assert len(logged) == len(first) == len(second) == UPDATES
    for expected, mine, other in zip(logged, first, second, strict=True):
        assert mine == other
        assert mine == pytest.approx(expected, rel=1e-5)
        assert {"train/codebook/perplexity_hard", "train/codebook/usage", "train/gradient_norm"} <= set(mine)


@every_layout
@every_case
def test_validation_is_that_of_one_process(
    ranks: list[dict[str, Any]], alone: Callable[..., dict[str, Any]], cls: type, quantizer: type, accumulate: int
) -> None:
    """With the diversity penalty, which is one of all validation batches together."""
    expected = alone(cls, quantizer)
    for process in ranks:
        result = process[f"{cls.__name__}-{quantizer.__name__}-{accumulate}"]
        assert result["validation"] == pytest.approx(expected["validation"], rel=1e-5)
        assert torch.equal(result["codebook_counts"], expected["codebook_counts"])
        assert expected["codebook_counts"].sum() > 0


def test_one_process_may_encode_mixed_utterances_alone(ranks: list[dict[str, Any]]) -> None:
    """The encoder computes their targets from the clean audio in a second pass, which the other process does not do."""
    expected = train_mixed(2)
    for process in ranks:
        assert_close(process["mixed"], expected, rtol=1e-8, atol=1e-11)


def test_each_process_may_compute_its_micro_batches_at_once(ranks: list[dict[str, Any]]) -> None:
    """Two and two, with all noise, against four one after another in one process."""
    expected = train_noisy(False)
    for process in ranks:
        assert_close(process["fused"], expected, rtol=1e-11, atol=1e-11)


def test_what_is_not_finite_on_one_process_is_skipped_on_both(ranks: list[dict[str, Any]]) -> None:
    first, second = (process["skip"] for process in ranks)
    assert first["skipped"] == second["skipped"] == 1
    assert (first["ids"], second["ids"]) == ((), second["bad"]), "the process that has them names them"
    for name, value in first["state"].items():
        assert value.isfinite().all()
        assert torch.equal(second["state"][name], value)


def test_an_utterance_without_units_ends_both_and_none_waits(ranks: list[dict[str, Any]]) -> None:
    first, second = (process["check"] for process in ranks)
    assert first == second
    assert "has none of another; it lacks 1 of 5 utterances" in first


def test_sum_over_processes_carries_its_gradient(ranks: list[dict[str, Any]]) -> None:
    """y = x0 + 2 x1 = 9; both processes square it, so dx0 = 2 * 2 y = 36 and dx1 = 72."""
    for process, gradient in zip(ranks, (36.0, 72.0), strict=True):
        assert process["reduced"]["total"] == 9
        assert process["reduced"]["gradient"] == gradient


def test_one_process_reduces_nothing() -> None:
    value = torch.ones(3)
    assert not is_distributed()
    assert (rank(), world_size()) == (0, 1)
    assert all_reduce_sum(value) is value
