"""Two processes give the same update and the same statistics as one with the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.ddp.processes import in_two_processes
from tests.ddp.worker import CASES, run, train
from w2vlab.distributed import all_reduce_sum, is_distributed, rank, world_size
from w2vlab.quantizers import KMeansQuantizer


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    return in_two_processes(run, folder)


every_case = pytest.mark.parametrize(("cls", "quantizer"), CASES, ids=lambda cls: cls.__name__)


def names_of(cls: type, quantizer: type) -> str:
    return f"{cls.__name__}-{quantizer.__name__}"


@every_case
def test_update_is_that_of_one_process(ranks: list[dict[str, Any]], cls: type, quantizer: type) -> None:
    """Two updates of 2 x 4 and of 1 x 8 utterances in float64, with the diversity penalty where there is one."""
    alone = train(cls, quantizer)
    for process in ranks:
        result = process[names_of(cls, quantizer)]
        assert set(result["parameters"]) == set(alone["parameters"])
        for name, expected in alone["parameters"].items():
            assert_close(
                result["parameters"][name], expected, rtol=1e-8, atol=1e-11, msg=lambda text, n=name: f"{n}: {text}"
            )


def reduced(metrics: dict[str, float]) -> dict[str, float]:
    """Without the speed and without what is of the process's own batch: which negatives and frames were drawn."""
    own = ("audio_seconds_per_second", "excluded_negatives", "equal_negatives", "masked_fraction")
    return {name: value for name, value in metrics.items() if not name.endswith(own)}


@every_case
def test_logs_are_those_of_one_process(ranks: list[dict[str, Any]], cls: type, quantizer: type) -> None:
    alone = train(cls, quantizer)
    first, second = (process[names_of(cls, quantizer)] for process in ranks)
    assert len(alone["metrics"]) == len(first["metrics"]) == 2
    for expected, mine, other in zip(alone["metrics"], first["metrics"], second["metrics"], strict=True):
        assert reduced(mine) == pytest.approx(reduced(other), rel=1e-6)
        assert reduced(mine) == pytest.approx(reduced(expected), rel=1e-5)
        assert "train/codebook/perplexity_hard" in mine


@pytest.mark.parametrize(("cls", "quantizer"), [case for case in CASES if case[1] is KMeansQuantizer])
def test_validation_is_that_of_one_process(ranks: list[dict[str, Any]], cls: type, quantizer: type) -> None:
    """The diversity penalty is left out: it is one of each batch, and one process has other batches."""
    alone = train(cls, quantizer)
    for process in ranks:
        result = process[names_of(cls, quantizer)]
        assert result["validation"] == pytest.approx(alone["validation"], rel=1e-5)
        assert torch.equal(result["codebook_counts"], alone["codebook_counts"])
        assert alone["codebook_counts"].sum() > 0


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
