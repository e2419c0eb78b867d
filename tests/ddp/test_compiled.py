"""On two processes, with copies of the model and in shards, CompileModel changes nothing but rounding and dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.ddp.compiled_worker import STRATEGIES, run
from tests.ddp.processes import in_two_processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return in_two_processes(run, folder)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_and_checkpoints_are_those_without(ranks: list[dict[str, Any]], folder: Path, strategy: str) -> None:
    for process in ranks:
        compiled, plain = process[f"{strategy}-compiled"], process[f"{strategy}-plain"]
        assert compiled["losses"] == pytest.approx(plain["losses"], rel=1e-5)
        # The encoder's blocks, a layer, the quantizer and the scores; batches have padding always. Behind a layer that
        # is left out the next one sees a view, which is another layer to Dynamo, unless sharding makes views of all.
        assert compiled["graphs"] == {"ddp": 5, "sharded": 4}[strategy]
    found, expected = (
        torch.load(folder / f"{strategy}-{how}.ckpt", weights_only=True) for how in ("compiled", "plain")
    )
    assert list(found["state_dict"]) == list(expected["state_dict"])
    assert_close(found["state_dict"], expected["state_dict"], rtol=1e-4, atol=1e-6)
