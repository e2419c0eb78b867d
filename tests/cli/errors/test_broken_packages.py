"""A package that is missing or broken ends every command in a line that names it, and what to do."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cli.broken import MISSING_SYMBOL, break_package, start
from w2vlab.cli.errors import packages
from w2vlab.cli.errors.packages import LoadFailure, load_failure, repair, requirements
from w2vlab.cli.errors.problems import message_of

NEED_PYTORCH = {
    "fit": ["--config=run.yaml"],
    "validate": ["--config=run.yaml"],
    "evaluate": ["last.ckpt"],
    "compare": ["one.ckpt", "other.ckpt"],
    "sweep": ["sweep.yaml"],
    "explain": ["--config=run.yaml"],
}
BROKEN = {
    "torch": "import ctypes; ctypes.CDLL('libc10_of_another_build.so')",  # an OSError
    "lightning": "raise ImportError('cannot import name hparams')",
    "jsonargparse": "raise RuntimeError('compiled for another Python')",
}


def the_line(err: str) -> str:
    """Returns the message, which is one line and a hint at the traceback."""
    assert "Traceback" not in err
    first, *rest = err.splitlines()
    assert rest == ["(W2VLAB_TRACEBACK=1 shows where)"]
    return first


@pytest.mark.parametrize("package", ["torch", "lightning"])
@pytest.mark.parametrize("command", NEED_PYTORCH)
def test_every_command_that_needs_it_reports_it(command: str, package: str, tmp_path: Path) -> None:
    break_package(tmp_path, package, BROKEN[package])
    done = start(tmp_path, command, *NEED_PYTORCH[command])
    assert done.returncode == 1
    line = the_line(done.stderr)
    assert line.startswith(f"error: {package} {version(package)} cannot be loaded: ")
    assert re.search(rf"pip install .*-c \S*requirements\.lock .*{package}", line)
    assert "`w2vlab doctor`" in line
    assert done.stdout == ""


def test_whatever_is_raised_while_it_is_imported(tmp_path: Path) -> None:
    """Here what commands otherwise take for a mistake in an option."""
    break_package(tmp_path, "jsonargparse", BROKEN["jsonargparse"])
    done = start(tmp_path, "fit", "--config=run.yaml")
    assert done.returncode == 1
    why = f"jsonargparse {version('jsonargparse')} cannot be loaded: compiled for another Python. "
    assert the_line(done.stderr).startswith(f"error: {why}")


@pytest.mark.parametrize("args", [["parts"], ["--help"], ["--version"], ["report", "--help"]])
def test_commands_that_do_without_pytorch_run(args: list[str], tmp_path: Path) -> None:
    for package in ("torch", "torchaudio", "lightning"):
        break_package(tmp_path, package, "raise OSError('broken')")
    done = start(tmp_path, *args)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_traceback_is_there_on_demand(tmp_path: Path) -> None:
    break_package(tmp_path, "torch", BROKEN["torch"])
    done = start(tmp_path, "fit", W2VLAB_TRACEBACK="1")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "OSError: libc10_of_another_build.so" in done.stderr


def test_a_run_that_needs_no_torchaudio_does_without(tiny_config: Path, tmp_path: Path) -> None:
    """With convolutions on audio of 16 kHz; log-mel features are torchaudio's."""
    break_package(tmp_path, "torchaudio", f"raise OSError({MISSING_SYMBOL!r})")
    run = ["fit", f"--config={tiny_config}", "--trainer.logger=false", "--trainer.max_steps=1"]
    done = start(tmp_path, *run, "--trainer.limit_val_batches=0")
    assert done.returncode == 0, done.stderr
    done = start(tmp_path, *run, "--model.encoder=LogMelEncoder")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-2]
    pair = f"torchaudio {version('torchaudio')} cannot be loaded beside torch {version('torch')}"
    assert line.startswith(f"error: {pair}: {MISSING_SYMBOL}. ")
    assert line.endswith(" torch torchaudio (`w2vlab doctor` checks the rest).")
    assert "Traceback" not in done.stderr


def raised(code: str) -> Exception:
    try:
        exec(code, {"__name__": "__main__"})
    except Exception as problem:
        return problem
    raise AssertionError("nothing was raised")


def test_a_missing_package_is_not_installed() -> None:
    problem = raised("raise ModuleNotFoundError(\"No module named 'lightning'\", name='lightning.pytorch')")
    assert load_failure(problem) == LoadFailure("lightning", "No module named 'lightning'")
    assert message_of(problem).startswith(f"lightning {version('lightning')} cannot be loaded: No module named")


def test_errors_that_are_about_something_else_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("raise OSError('mine')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for code in ("open('/nowhere')", "import nowhere_at_all", "import mine", "raise ValueError('no')"):
        problem = raised(code)
        assert load_failure(problem) is None, code
        assert message_of(problem) == str(problem)


def test_an_import_that_was_caught_is_not_blamed() -> None:
    """As Flashlight Text, whose absence torchaudio reports while it is imported."""
    tried = "try:\n import torch.nowhere\nexcept ImportError:\n raise RuntimeError('install it') from None"
    assert load_failure(raised(tried)) is None
    assert load_failure(raised(tried.replace(" from None", ""))) == LoadFailure(
        "torch", "No module named 'torch.nowhere'"
    )


def test_the_reason_is_the_innermost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch names the library that it could not load, with the system's error as the cause."""
    loading = f"try: raise OSError({MISSING_SYMBOL!r})\nexcept OSError as why: raise OSError('no library') from why"
    break_package(tmp_path, "torchaudio", loading)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    tried = "try: import torchaudio\nexcept OSError as why: raise ValueError('Does not validate') from why"
    assert load_failure(raised(tried)) == LoadFailure("torchaudio", MISSING_SYMBOL)


def test_requirements_are_those_of_every_installation() -> None:
    found = requirements()
    assert {"torch", "torchaudio", "lightning", "jsonargparse", "wandb", "lhotse", "numpy", "soundfile"} <= set(found)
    assert not {"pytest", "ruff", "ray", "flashlight-text"} & set(found)
    assert found["torch"].startswith(">=")


def test_the_install_command_depends_on_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip does not reinstall a package of the right version, even if its files are broken."""
    lock = tmp_path / "requirements.lock"
    lock.write_text("torch==2.14.1 ; python_version < '3.14'\n    # via x\ntorchaudio==2.11.1\nwandb==0.31.0\n")
    monkeypatch.setattr(packages, "_lock_file", lambda: lock)
    monkeypatch.setattr(packages, "installed", {"torch": "2.11.0", "torchaudio": "2.11.1", "wandb": "0.31.0"}.get)
    monkeypatch.chdir(tmp_path)
    pair = "Install the tested versions: pip install -c requirements.lock torch torchaudio"
    assert repair("torch") == repair("torchaudio") == pair
    assert repair("wandb").endswith(": pip install --force-reinstall --no-deps -c requirements.lock wandb")
    assert repair("lightning").endswith(": pip install -c requirements.lock lightning")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert repair("lightning").endswith(f" -c {lock} lightning")
    monkeypatch.setattr(packages, "_lock_file", lambda: None)
    assert repair("lightning").endswith(" -c requirements.lock lightning")
