"""Augmentations from the command line and from YAML."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from w2vlab.cli.main import main

Fit = Callable[..., int]
RUN = Path("runs/w2vlab/version_0")


@pytest.fixture
def noises() -> None:
    """A folder of noises in the folder of the run."""
    Path("noises").mkdir()
    for number in range(2):
        soundfile.write(
            f"noises/n{number}.wav", 0.1 * np.random.default_rng(number).standard_normal(8000), 16_000, subtype="FLOAT"
        )


def test_flags_append_parts_and_set_options_of_the_last(fit: Fit, noises: None) -> None:
    flags = [
        *("--data.augmentations+=SpeedPerturbation", "--data.augmentations+=AdditiveNoise"),
        *("--data.augmentations.corpus=noises", "--data.augmentations.snr=[0,10]", "--data.augmentations+=Gain"),
    ]
    assert fit("--trainer.max_steps=2", *flags) == 0
    saved = yaml.safe_load((RUN / "config.yaml").read_text())["data"]["augmentations"]
    assert [part["class_path"].rpartition(".")[2] for part in saved] == ["SpeedPerturbation", "AdditiveNoise", "Gain"]
    assert saved[1]["init_args"] == {"corpus": "noises", "snr": [0.0, 10.0], "probability": 0.5}
    assert main(["fit", f"--config={RUN / 'config.yaml'}", "--trainer.max_steps=1"]) == 0


def test_a_file_lists_them_and_a_resume_without_them_warns(
    fit: Fit, noises: None, capfd: pytest.CaptureFixture[str]
) -> None:
    mixing = {"class_path": "UtteranceMixing", "init_args": {"noise": "noises", "probability": 0.5}}
    parts = ["Reverberation", {"class_path": "Gain", "init_args": {"decibels": [-6, 6]}}, mixing]
    Path("augmentations.yaml").write_text(yaml.safe_dump({"data": {"augmentations": parts}}))
    assert fit("--config=augmentations.yaml", "--trainer.max_steps=2") == 0
    capfd.readouterr()
    checkpoint = f"--ckpt_path={RUN / 'checkpoints' / 'last.ckpt'}"
    assert fit("--config=augmentations.yaml", checkpoint, "--trainer.max_steps=3") == 0
    assert "Resuming with" not in "".join(capfd.readouterr())
    assert fit(checkpoint, "--trainer.max_steps=4", "--new_run=true") == 0
    assert "Resuming with `data.augmentations` none" in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["+=AditiveNoise"], "Unknown augmentation 'AditiveNoise'. Known: AdditiveNoise, Gain, Reverberation, "),
        (["+=Gain", ".probability=2"], "`data.augmentations.probability` must be from 0 to 1, but is 2.0."),
        (["+=Gain", ".snr=2"], "`data.augmentations` has no option 'snr', as Gain takes none of that name."),
        (["+=AdditiveNoise", ".corpus=nowhere"], "`data.augmentations.corpus` must be an existing path or one of"),
    ],
)
def test_mistakes_are_named_in_one_line(
    fit: Fit, flags: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fit(*(f"--data.augmentations{flag}" for flag in flags)) != 0
    error = capfd.readouterr().err
    assert f"error: {message}" in error
    assert "Traceback" not in error


def test_targets_of_the_mixed_audio_are_refused(fit: Fit, capfd: pytest.CaptureFixture[str]) -> None:
    flags = "--model=FuturePrediction", "--model.context=ConvContext", "--data.augmentations+=UtteranceMixing"
    assert fit(*flags) != 0
    assert "error: `data.augmentations` must not have UtteranceMixing under FuturePrediction" in capfd.readouterr().err


def test_explain_checks_them(tiny_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explain = ["explain", f"--config={tiny_config}", "--no_gradients", "--data.augmentations+=Gain"]
    assert main(explain) == 0
    assert main([*explain, "--data.augmentations.probability=2"]) != 0
    assert "`data.augmentations.probability` must be from 0 to 1, but is 2.0." in capsys.readouterr().err
