"""CompileModel, switched on from the command line and in YAML."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.helpers.compiling import own_kernels
from w2vlab.cli.main import main

Fit = Callable[..., int]
FRAGMENT = Path(__file__).parents[3] / "configs" / "callbacks" / "compile.yaml"


def losses(version: int) -> list[float]:
    with Path(f"runs/w2vlab/version_{version}/metrics.csv").open() as file:
        return [float(row["train/loss/total"]) for row in csv.DictReader(file) if row["train/loss/total"]]


def test_switched_on_by_its_name(fit: Fit, capfd: pytest.CaptureFixture[str]) -> None:
    assert fit() == 0
    with own_kernels():
        assert fit("--trainer.callbacks+=CompileModel") == 0
    line = "Regions to compile at the first batch, by part: encoder (1), quantizer (1), context (1), "
    assert line in capfd.readouterr().err
    assert losses(1) == pytest.approx(losses(0), rel=1e-4)
    assert len(losses(1)) == 2


def test_fragment(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    use = f"w2vlab fit --config configs/wav2vec2_base.yaml --trainer.callbacks+=configs/callbacks/{FRAGMENT.name}"
    assert use in FRAGMENT.read_text()
    assert fit(f"--trainer.callbacks+={FRAGMENT}", "--print_config") == 0
    (callback,) = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    options = {"mode": "default", "dynamic": True, "parts": None, "on_cpu": True}
    assert callback == {"class_path": "w2vlab.callbacks.CompileModel", "init_args": options}


def test_options_select_the_compiled_parts(fit: Fit, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["--trainer.callbacks+=CompileModel", "--trainer.callbacks.parts=[context]", "--trainer.max_steps=1"]
    with own_kernels():
        assert fit(*flags) == 0
    assert "by part: context (1)." in capfd.readouterr().err


def test_a_file_for_gpus_compiles_nothing_on_a_cpu(fit: Fit, capfd: pytest.CaptureFixture[str]) -> None:
    fragment = FRAGMENT.parents[1] / "trainer" / "ddp.yaml"
    on_a_cpu = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]
    assert fit(f"--config={fragment}", *on_a_cpu, "--trainer.max_steps=1") == 0
    assert "Regions to compile" not in capfd.readouterr().err


def test_explain_does_not_compile(tiny_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for flags in ([], ["--trainer.callbacks+=CompileModel"]):
        assert main(["explain", f"--config={tiny_config}", "--no_gradients", *flags]) == 0
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1]
    assert "Tensor shapes of" in lines[0]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("mode=fast", "`trainer.callbacks.mode` must be one of 'default', 'max-autotune-no-cudagraphs', but is fast."),
        ("parts=[encodr]", "`trainer.callbacks.parts` must name parts of the model, "),
    ],
)
def test_mistakes_are_named(flag: str, message: str, fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--trainer.callbacks+=CompileModel", f"--trainer.callbacks.{flag}") in (1, 2)
    assert f"error: {message}" in capsys.readouterr().err
