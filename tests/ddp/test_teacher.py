"""Two processes, with and without shards, train a teacher or several losses as one does, and save the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.ddp.processes import in_two_processes
from tests.ddp.teacher_worker import CASES, SLOW, run, train
from w2vlab.modules import TeacherPrediction

every_way = pytest.mark.parametrize("how", ["ddp", "sharded"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of all cases, of two processes and of one."""
    folder = tmp_path_factory.mktemp("teacher")
    train("DinoSR", folder / "first-alone.ckpt", end=1)
    torch.save(in_two_processes(run, folder), folder / "results.pt")
    torch.save({case: train(case, folder / f"{case}-alone.ckpt") for case in CASES}, folder / "alone.pt")
    train("DinoSR", folder / "skip-alone.ckpt", damaged=5)
    train("DinoSR", folder / "resumed-alone.ckpt", start=1, ckpt_path=folder / "first-sharded.ckpt")
    return folder


def read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / f"{name}.ckpt", weights_only=True)
    return found


def assert_same(found: Any, expected: Any) -> None:
    assert_close(found, expected, rtol=1e-9, atol=1e-12)


@every_way
@pytest.mark.parametrize("case", CASES)
def test_updates_are_those_of_one_process(folder: Path, case: str, how: str) -> None:
    """Student, teacher, codebooks and optimizer, without a search for unused parameters."""
    found, expected = read(folder, f"{case}-{how}"), read(folder, f"{case}-alone")
    assert list(found["state_dict"]) == list(expected["state_dict"])
    assert {type(value) for value in found["state_dict"].values()} == {torch.Tensor}
    assert_same(found["state_dict"], expected["state_dict"])
    assert_same(found["optimizer_states"], expected["optimizer_states"])
    start = {
        name: value for name, value in CASES[case]().state_dict().items() if name.startswith(("teacher.", "loss."))
    }
    moved = {name for name, value in start.items() if not torch.equal(expected["state_dict"][name], value.double())}
    assert len(moved) > (20 if isinstance(CASES[case](), TeacherPrediction) else 3)


@every_way
@pytest.mark.parametrize("case", CASES)
def test_logs_are_those_of_one_process(folder: Path, case: str, how: str) -> None:
    alone = torch.load(folder / "alone.pt")[case]["logged"]
    for result in torch.load(folder / "results.pt"):
        for found, expected in zip(result[f"{case}-{how}"]["logged"], alone, strict=True):
            assert found == pytest.approx(expected, rel=1e-5)
            assert "train/masked_fraction" in found
            with_teacher = isinstance(CASES[case](), TeacherPrediction)
            assert ({"train/teacher_decay", "train/target_variance"} <= set(found)) == with_teacher


def test_each_process_holds_half_of_a_sharded_teacher(folder: Path) -> None:
    whole = sum(average.numel() for average in CASES["data2vec"]().teacher.parameters())
    results = [result["data2vec-sharded"] for result in torch.load(folder / "results.pt")]
    assert {result["title"] for result in results} == {"TeacherPrediction with IdentityQuantizer"}
    assert sum(result["kept"] for result in results) == whole
    assert max(result["kept"] for result in results) < 0.6 * whole
    assert all(result["sharded"] == {True} for result in results)
    assert all(result["data2vec-ddp"]["sharded"] == {False} for result in torch.load(folder / "results.pt"))


@every_way
def test_what_is_not_finite_on_one_process_leaves_the_teacher_of_both(folder: Path, how: str) -> None:
    found, expected = read(folder, f"skip-{how}"), read(folder, "skip-alone")
    assert [result[f"skip-{how}"]["skipped"] for result in torch.load(folder / "results.pt")] == [1, 1]
    assert all(value.isfinite().all() for value in found["state_dict"].values())
    assert_same(found["state_dict"], expected["state_dict"])


@pytest.mark.parametrize("how", ["ddp", "sharded", "alone"])
def test_a_run_resumes_on_another_number_of_processes(folder: Path, how: str) -> None:
    """One update alone and two in two processes, or one in shards and two alone, are three."""
    found, expected = read(folder, f"resumed-{how}"), read(folder, "DinoSR-alone")
    assert found["global_step"] == expected["global_step"] == 3
    assert_same(found["state_dict"], expected["state_dict"])
    assert_same(found["optimizer_states"], expected["optimizer_states"])


def test_averages_in_shards_of_a_run_in_bfloat16_are_float32(folder: Path) -> None:
    """Their step is a ten thousandth of that of the student."""
    saved, averages = read(folder, "slow-sharded")["state_dict"], dict(SLOW().teacher.network.named_parameters())
    moved = 0
    for name, average in averages.items():
        found, weight = saved[f"teacher.network.{name}"], saved[f"context.{name}"]
        assert (found.dtype, weight.dtype) == (torch.float32, torch.bfloat16)
        assert_close(found, average + 1e-4 * (weight.float() - average), rtol=1e-6, atol=1e-8)
        moved += int(((found != average) & (found.bfloat16() == average.bfloat16())).sum())
    assert moved > sum(map(torch.numel, averages.values())) / 2, "by steps that bfloat16 would round away"


def test_a_sharded_checkpoint_opens_anywhere(folder: Path) -> None:
    model = TeacherPrediction.load_from_checkpoint(folder / "DinoSR-sharded.ckpt")
    saved = read(folder, "DinoSR-alone")["state_dict"]
    for name, value in model.teacher.state_dict().items():
        assert_close(value, saved[f"teacher.{name}"].float())
