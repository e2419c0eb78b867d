"""`--trainer.precision=auto`: what it decides, says and records. The figures of the trial are given."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer

from w2vlab.cli.lightning.parsed import check_run
from w2vlab.cli.parsing import precision
from w2vlab.cli.parsing.precision import SamePrecision, choose, resolve_precision
from w2vlab.types import RunError


@pytest.fixture(autouse=True)
def one_process_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has."""
    for variable in ("LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("W2VLAB_PRECISION", "")  # what the tests set is undone
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("ratio", "line"),
    [
        (2.34, "bf16-mixed, because this processor multiplies bfloat16 2.3 times as fast as float32"),
        (1.5, "bf16-mixed, because this processor multiplies bfloat16 1.5 times as fast as float32"),
        (1.4, "32-true, because this processor multiplies bfloat16 only 1.4 times as fast as float32"),
        (0.04, "32-true, because this processor multiplies bfloat16 only 0.0 times as fast as float32"),
    ],
)
@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_a_trial_decides_on_a_cpu(ratio: float, line: str, accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "trial", lambda: ratio)
    assert str(choose(accelerator)) == f"precision auto: {line}"


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "auto"])
@pytest.mark.parametrize("supported", [True, False])
def test_bfloat16_on_a_gpu_that_has_it(accelerator: str, supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA X")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    choice = choose(accelerator)
    assert choice.precision == ("bf16-mixed" if supported else "32-true")
    assert "because NVIDIA X " in str(choice)


def test_other_accelerators_compute_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("tpu").precision == "32-true"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose("auto").precision == "32-true"
    monkeypatch.setattr(precision, "trial", lambda: 2.0)
    assert choose("cpu").precision == "bf16-mixed"


def test_the_trial_divides_the_fastest_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only products move: of float32 by 3, of bfloat16 by 1, and by more in every other turn."""
    clock = SimpleNamespace(now=0.0, turns=0)

    def product(left: torch.Tensor, right: torch.Tensor) -> None:
        clock.turns += 1
        clock.now += (1.0 if left.dtype == torch.bfloat16 else 3.0) + clock.turns % 3

    monkeypatch.setattr(precision, "torch", SimpleNamespace(mm=product, rand=torch.rand, Generator=torch.Generator))
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock.now)
    assert precision.trial() == 3.0


def test_the_trial_ends_early_without_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sizes = SimpleNamespace(now=0.0), set()

    def product(left: torch.Tensor, right: torch.Tensor) -> None:
        clock.now += 50.0 if left.dtype == torch.bfloat16 else 1.0
        sizes.add(len(left))

    monkeypatch.setattr(precision, "torch", SimpleNamespace(mm=product, rand=torch.rand, Generator=torch.Generator))
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock.now)
    assert precision.trial() == 0.02
    assert sizes == {128}


def test_the_trial_draws_nothing_from_the_default_generator() -> None:
    state = torch.get_rng_state()
    assert precision.trial() > 0
    assert torch.equal(torch.get_rng_state(), state)


def resolved(saved: dict[str, Any] | None = None, given: str = "auto") -> str:
    trainer = Namespace(precision=given, accelerator="cpu")
    resolve_precision(trainer, saved)
    return str(trainer.precision)


def test_a_given_precision_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "trial", lambda: pytest.fail("needs no trial"))
    assert resolved(given="16-mixed") == "16-mixed"
    assert resolved({"trainer": {"precision": "32-true"}}, given="64-true") == "64-true"


def test_a_resumed_run_keeps_the_precision_of_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "trial", lambda: pytest.fail("needs no trial"))
    assert resolved({"trainer": {"precision": "bf16-mixed"}}) == "bf16-mixed"
    assert resolved({"trainer": {"precision": "32-true"}}) == "32-true"
    assert resolved({"trainer": {"precision": None}}) == "32-true", "a run without the option computes in float32"
    monkeypatch.setattr(precision, "trial", lambda: 3.0)
    assert resolved({"trainer": {}}) == "bf16-mixed"
    assert resolved({}) == "bf16-mixed"


def test_processes_that_the_first_one_starts_follow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "trial", lambda: 3.0)
    assert resolved() == "bf16-mixed"
    monkeypatch.setattr(precision, "trial", lambda: 1.0)
    monkeypatch.setenv("LOCAL_RANK", "1")  # the environment is that of the first process otherwise
    assert resolved() == "bf16-mixed"
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert resolved() == "32-true"


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_NTASKS"])
@pytest.mark.parametrize("instructions", [True, False])
def test_processes_of_a_launcher_look_at_the_processor(
    variable: str, instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that they decide the same, although they are not connected yet."""
    monkeypatch.setattr(precision, "trial", lambda: pytest.fail("varies between processes"))
    monkeypatch.setattr(precision, "_has_instructions", lambda: instructions)
    monkeypatch.setenv(variable, "2")
    assert resolved() == ("bf16-mixed" if instructions else "32-true")


def test_processes_that_decided_differently_end(monkeypatch: pytest.MonkeyPatch) -> None:
    check = SamePrecision()
    check.setup(Trainer(logger=False, accelerator="cpu"), LightningModule(), "fit")

    def gather(found: list[Any], own: Any) -> None:
        found[:] = [own, "bf16-mixed", own]

    monkeypatch.setattr(precision, "is_distributed", lambda: True)
    monkeypatch.setattr(precision, "world_size", lambda: 3)
    monkeypatch.setattr(precision.dist, "all_gather_object", gather)
    with pytest.raises(RunError, match="but is 32-true on 0, 2; bf16-mixed on 1: with auto"):
        check.setup(Trainer(logger=False, accelerator="cpu"), LightningModule(), "fit")
    check.setup(Trainer(logger=False, accelerator="cpu", precision="bf16-mixed"), LightningModule(), "fit")


def test_a_run_records_what_was_decided_and_resumes_with_it(
    fit: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(precision, "trial", lambda: 2.0)
    options = ["--trainer.precision=auto", "--trainer.logger=CSVLogger"]
    assert fit(*options) == 0
    line = "precision auto: bf16-mixed, because this processor multiplies bfloat16 2.0 times as fast as float32"
    assert caplog.messages.count(line) == 1
    (config,) = tmp_path.rglob("config.yaml")
    assert "precision: bf16-mixed" in config.read_text()

    monkeypatch.setattr(precision, "trial", lambda: 1.0)
    assert fit(*options, "--ckpt_path=last", "--trainer.max_steps=6") == 0
    assert caplog.messages.count("precision auto: bf16-mixed, as in the checkpoint") == 1
    assert "resuming with trainer.precision" not in caplog.text

    assert fit("--trainer.logger=CSVLogger", "--ckpt_path=last", "--trainer.max_steps=8") == 0
    assert "resuming with trainer.precision 32-true, the checkpoint had bf16-mixed" in caplog.text
    (record,) = (json.loads(path.read_text()) for path in tmp_path.rglob("run.json"))
    changed = [start["changed"].get("trainer.precision") for start in record["continued"]]
    assert changed == [None, ["bf16-mixed", "32-true"]]


def test_a_recipe_can_ask_for_it(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "trial", lambda: 2.0)
    recipe = tmp_path / "auto.yaml"
    recipe.write_text("trainer: {precision: auto}\n")
    _, options = check_run([f"--config={tiny_config}", f"--config={recipe}"])
    assert options["trainer.precision"] == "bf16-mixed"


def test_an_unknown_precision_is_still_refused(tiny_config: Path) -> None:
    with pytest.raises(ValueError, match="precision"):
        check_run([f"--config={tiny_config}", "--trainer.precision=automatic"])
