"""Two processes fine-tune, and score, as one does with the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.testing import assert_close

from tests.ddp import recognition_worker
from tests.ddp.processes import in_two_processes
from tests.modules.finetuning.recognition import pretrain


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("recognition")
    pretrain(folder / recognition_worker.CHECKPOINT)
    return folder


def test_two_processes_equal_one(folder: Path) -> None:
    """Three updates, of which one is frozen, and a validation in which one process has a batch more."""
    expected: dict[str, Any] = recognition_worker.train(folder)
    ranks = in_two_processes(recognition_worker.run, folder)
    assert expected["metrics"]["train/unfit_utterances"] > 0
    assert expected["validation"]["val/cer"] > 0
    for result in ranks:
        for name, value in expected["state"].items():
            assert_close(result["state"][name], value, rtol=1e-8, atol=1e-11, msg=lambda text, n=name: f"{n}: {text}")
        assert result["validation"] == pytest.approx(expected["validation"], rel=1e-5)
        assert result["metrics"] == pytest.approx(expected["metrics"], rel=1e-5)
    assert ranks[0]["examples"] == expected["examples"][::2], "each shows its own"
