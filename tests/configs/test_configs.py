"""Every configuration is complete, and every command in the README or a configuration runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from w2vlab.cli.main import main

ROOT = Path(__file__).parents[2]
RUNS = sorted(ROOT.glob("configs/*.yaml"))
FINETUNING = sorted(ROOT.glob("configs/finetune/*.yaml"))
MACHINES = sorted(ROOT.glob("configs/trainer/*.yaml"))
# Those of the ablations are parsed with their sweeps.
FRAGMENTS = [path for path in sorted(ROOT.glob("configs/*/*.yaml")) if path.parent.name != "ablations"]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(path for path in ROOT.glob("docs/**/*.md") if "_build" not in path.parts),
    *RUNS,
    *FRAGMENTS,
]


def commands(document: Path) -> list[str]:
    """The `w2vlab …` commands on separate lines, without the comment after them."""
    lines = (line.strip("# ").rstrip() for line in document.read_text(encoding="utf-8").splitlines())
    return [re.split(r"\s{2,}#", line)[0] for line in lines if line.startswith("w2vlab ")]


FITS = sorted(
    command
    for command in {command for document in DOCUMENTS for command in commands(document)}
    if command.startswith("w2vlab fit") and "batches.yaml" not in command  # which `w2vlab batch-size` writes
)
ON_MACHINES = [commands(path)[0] for path in MACHINES]
TRAINED = [c for c in FITS if re.fullmatch(r"w2vlab fit --config configs/quickstart\S+( --model\.\S+)*", c)]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dozen clips of noise with varying amplitude."""
    folder = tmp_path_factory.mktemp("corpus")
    noise = np.random.default_rng(0)
    for number in range(24):
        samples = noise.normal(size=40_000 + 500 * number)
        samples *= 0.1 * np.sin(np.arange(len(samples)) / (300 + 20 * number))
        soundfile.write(folder / f"{number:02}.wav", samples.astype(np.float32), 16_000)
    return folder


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_starts_with_its_command(path: Path) -> None:
    command = f"w2vlab fit --config configs/{path.name}"
    if path.stem == "continue_pretraining":  # only its source and its speech are missing in it
        command += " --model.init_from=SOURCE --data.corpus=FOLDER"
    assert commands(path)[0] == command


@pytest.mark.parametrize("path", FINETUNING, ids=lambda path: path.stem)
def test_a_fine_tuning_starts_with_its_command(path: Path) -> None:
    """Only the pretrained model is missing in it."""
    command = f"w2vlab fit --config configs/finetune/{path.name} --model.checkpoint="
    assert commands(path)[0].startswith(command)
    assert " " not in commands(path)[0].removeprefix(command)


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_a_trainer_fragment_has_its_command_and_is_applied(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Its options are in the configuration that its command resolves to."""
    monkeypatch.chdir(ROOT)
    command = commands(path)[0]
    assert command.endswith(f"--config configs/trainer/{path.name}")
    assert main([*shlex.split(command)[1:], "--print_config"]) == 0
    whole, fragment = (yaml.safe_load(text) for text in (capsys.readouterr().out, path.read_text(encoding="utf-8")))
    assert held_by(fragment, whole)
    assert "find_unused_parameters" not in path.read_text(encoding="utf-8")


def held_by(part: object, whole: object) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            added_to(part[key], whole[key[:-1]])
            if key.endswith("+")
            else key in whole and held_by(part[key], whole[key])
            for key in part
        )
    return part == whole


def added_to(entries: list[dict], whole: list[dict]) -> bool:
    """Whether entries of a list, with the short names of their classes, are at its end."""
    last = [{**entry, "class_path": entry["class_path"].rpartition(".")[2]} for entry in whole[-len(entries) :]]
    return all(held_by(*pair) for pair in zip(entries, last, strict=True))


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_the_files_for_gpus_compile_there_alone(path: Path) -> None:
    trainer = yaml.safe_load(path.read_text(encoding="utf-8")).get("trainer", {})
    compiled = {"class_path": "CompileModel", "init_args": {"on_cpu": False}}
    on_gpus = "accelerator" in trainer and trainer["accelerator"] != "cpu"
    assert trainer.get("callbacks+") == ([compiled] if on_gpus else None)


def test_the_readme_names_the_six_swaps() -> None:
    named = commands(ROOT / "README.md")
    for config in ("quickstart", "quickstart_vq_wav2vec"):
        for quantizer in ("KMeansQuantizer", "IdentityQuantizer"):
            assert f"w2vlab fit --config configs/{config}.yaml --model.quantizer={quantizer}" in named


@pytest.mark.parametrize("command", [command for command in FITS if command not in TRAINED + ON_MACHINES])
def test_the_command_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command)[1:]
    printed = [] if "--print_config" in arguments or any(a.endswith(".help") for a in arguments) else ["--print_config"]
    assert main([*arguments, *printed]) == 0
    shown = capsys.readouterr().out
    if printed:
        assert set(yaml.safe_load(shown)) >= {"model", "data", "trainer"}


@pytest.mark.parametrize("command", TRAINED, ids=lambda command: command[11:])
def test_the_command_trains_two_updates(
    command: str,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    if "--model." in command:  # the unchanged run draws every panel
        request.getfixturevalue("no_drawing")
    monkeypatch.chdir(ROOT)
    settings = {
        "data.corpus": corpus,
        "data.cache_dir": tmp_path / "cache",
        "data.batch_seconds": 6,
        "data.max_seconds": 2.5,
        "data.num_workers": 0,
        "trainer.max_steps": 2,
        "trainer.val_check_interval": 2,
        "trainer.logger": "false",
        "trainer.default_root_dir": tmp_path / "runs",
    }
    assert main([*shlex.split(command)[1:], *(f"--{name}={value}" for name, value in settings.items())]) == 0
    assert "validation loss" in capsys.readouterr().out
    assert list((tmp_path / "runs").rglob("last.ckpt"))
    assert list((tmp_path / "runs").rglob("report.png"))
