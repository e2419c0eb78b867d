"""How many processes read audio, for any machine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from w2vlab.data import workers
from w2vlab.data.workers import describe_workers, workers_of_each


def machine(monkeypatch: pytest.MonkeyPatch, cores: int, slurm: str | None = None) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: cores)
    if slurm is None:
        monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    else:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)


def trainer(device: str, processes: int) -> Any:
    return SimpleNamespace(num_devices=processes, strategy=SimpleNamespace(root_device=torch.device(device)))


@pytest.mark.parametrize(
    ("device", "cores", "processes", "slurm", "expected"),
    [
        ("cpu", 1, 1, None, 0),
        ("cpu", 2, 1, None, 1),
        ("cpu", 2, 2, None, 0),
        ("cpu", 7, 1, None, 1),
        ("cpu", 64, 1, None, 2),
        ("cpu", 64, 16, None, 1),
        ("cuda", 1, 1, None, 0),
        ("cuda", 2, 1, None, 1),
        ("cuda", 16, 1, None, 8),
        ("cuda", 16, 4, None, 3),
        ("cuda", 4, 8, None, 0),
        ("cuda", 128, 8, None, 8),
        ("cuda", 128, 8, "4", 3),
        ("cuda", 4, 8, "4", 3),
        ("cuda", 128, 8, "many", 8),
    ],
)
def test_workers_by_cores(
    device: str, cores: int, processes: int, slurm: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, cores, slurm)
    assert workers_of_each("auto", trainer(device, processes)) == expected
    assert workers_of_each(5, trainer(device, processes)) == 5
    assert workers_of_each(0, trainer(device, processes)) == 0


def test_without_a_trainer_it_is_one_process_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 4)
    assert workers_of_each("auto", None) == 1


def test_the_line_on_the_data_says_what_was_decided(
    make_module: Any, ready_module: Any, corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 2)
    module = ready_module(corpus, num_workers="auto")
    assert module.summary().splitlines()[0].endswith(", read by 1 worker (auto: 2 cores)")
    assert module.train_dataloader().num_workers == module.val_dataloader().num_workers == 1
    machine(monkeypatch, 1)
    assert describe_workers("auto", None) == ", read in the training process (auto: 1 core)"
    assert module.train_dataloader().num_workers == 0
    assert "auto" not in ready_module(corpus, num_workers=0).summary()


@pytest.mark.parametrize("given", [-1, "many"])
def test_other_numbers_are_refused(make_module: Any, given: Any) -> None:
    with pytest.raises(ValueError, match=r"^`num_workers` must be "):
        make_module("anything", num_workers=given)
