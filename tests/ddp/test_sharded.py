"""A model in shards on two processes learns what one process learns, and its checkpoints are the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.ddp.processes import in_two_processes
from tests.ddp.sharded_worker import CASES, name_of, run, train
from tests.modules.training import NoiselessGumbel, make_model
from w2vlab.modules import MaskedPrediction

ALONE = MaskedPrediction, NoiselessGumbel
"""The case of the tests of checkpoints."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of all cases after four updates, in shards and alone, and of one after two and two more."""
    folder = tmp_path_factory.mktemp("sharded")
    train(*ALONE, folder / "half-alone.ckpt", end=2)
    results = in_two_processes(run, folder)
    torch.save(results, folder / "results.pt")
    for case in CASES:
        torch.save(train(*case, folder / f"{name_of(*case)}-alone.ckpt"), folder / f"{name_of(*case)}-alone.pt")
    train(*ALONE, folder / "resumed-alone.ckpt", start=2, ckpt_path=folder / "half-sharded.ckpt")
    return folder


def read(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / f"{name}.ckpt", weights_only=True)


def assert_same(found: Any, expected: Any) -> None:
    assert_close(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: name_of(*case))
def test_four_updates_are_those_of_one_process(folder: Path, case: tuple[type, type]) -> None:
    """Weights, buffers (such as the codebook of moving averages) and the state of the optimiser."""
    sharded, alone = (read(folder, f"{name_of(*case)}-{how}") for how in ("sharded", "alone"))
    assert_same(sharded["state_dict"], alone["state_dict"])
    assert_same(sharded["optimizer_states"], alone["optimizer_states"])
    assert sharded["global_step"] == alone["global_step"] == 4


@pytest.mark.parametrize("case", CASES, ids=lambda case: name_of(*case))
def test_each_process_holds_half(folder: Path, case: tuple[type, type]) -> None:
    results = torch.load(folder / "results.pt")
    whole = sum(parameter.numel() for parameter in make_model(*case).parameters())
    kept = [result[name_of(*case)]["kept"] for result in results]
    assert sum(kept) == whole
    assert max(kept) < 0.6 * whole
    assert all(all(result[name_of(*case)]["sharded"]) for result in results)


@pytest.mark.parametrize("case", CASES, ids=lambda case: name_of(*case))
def test_validation_is_that_of_one_process(folder: Path, case: tuple[type, type]) -> None:
    alone = torch.load(folder / f"{name_of(*case)}-alone.pt")["validation"]
    for result in torch.load(folder / "results.pt"):
        assert result[name_of(*case)]["validation"] == pytest.approx(alone, rel=1e-5)


def test_checkpoints_are_the_same_files(folder: Path) -> None:
    """No tensor in shards, the same keys in the same order."""
    sharded, alone = (read(folder, f"half-{how}") for how in ("sharded", "alone"))
    assert list(sharded) == list(alone)
    assert list(sharded["state_dict"]) == list(alone["state_dict"])
    for found, expected in zip(sharded["optimizer_states"], alone["optimizer_states"], strict=True):
        assert list(found["state"]) == list(expected["state"])
        assert found["param_groups"] == expected["param_groups"]
        assert all(type(tensor) is torch.Tensor for state in found["state"].values() for tensor in state.values())
    assert {type(tensor) for tensor in sharded["state_dict"].values()} == {torch.Tensor}


@pytest.mark.parametrize("how", ["sharded", "alone"])
def test_two_updates_in_shards_and_two_alone_are_four(folder: Path, how: str) -> None:
    """And the other way round: weights and the state of the optimiser go over."""
    resumed, whole = read(folder, f"resumed-{how}"), read(folder, f"{name_of(*ALONE)}-alone")
    assert_same(resumed["state_dict"], whole["state_dict"])
    assert_same(resumed["optimizer_states"], whole["optimizer_states"])
