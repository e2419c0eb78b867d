"""`w2vlab doctor` as a command: with what works, and with packages that are broken, missing or end the process."""

from __future__ import annotations

import errno
import getpass
import json
import os
import socket
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.cli.broken import MISSING_SYMBOL, break_package, start
from w2vlab.cli import doctor
from w2vlab.cli.doctor.finding import Finding, as_lines, note, ok, problem, without_names
from w2vlab.cli.doctor.loading import Loaded, load_all
from w2vlab.cli.main import main


def findings_of(folder: Path, *, status: int, **variables: str) -> dict[str, dict[str, Any]]:
    done = start(folder, "doctor", "--json", **variables)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr == ""
    content = json.loads(done.stdout)
    assert content["can_start"] == (status == 0)
    return {found["name"]: found for found in content["findings"]}


def test_this_environment_can_start_a_run(tmp_path: Path) -> None:
    found = findings_of(tmp_path, status=0, WANDB_API_KEY="a-key-that-nobody-must-see")
    for package in ("torch", "torchaudio", "lightning", "torchmetrics", "jsonargparse", "wandb", "lhotse", "numpy"):
        assert found[package]["state"] == "ok", found[package]
        assert found[package]["text"].startswith(f"{version(package)} (tested: ")
    assert found["codecs"]["text"].startswith("wav, flac, ogg, opus, mp3 (libsndfile ")
    assert "PyTorch's kernels: " in found["processors"]["text"]
    names = {"w2vlab", "python", "memory", "NCCL", "/dev/shm", "open files", "C++ compiler", "W&B", "runs", "cache"}
    assert names <= set(found)
    assert found["W&B"]["text"].endswith("; logged in (WANDB_API_KEY); set: WANDB_API_KEY")
    assert "a-key" not in json.dumps(found)


def test_a_pair_that_does_not_fit(tmp_path: Path) -> None:
    break_package(tmp_path, "torchaudio", f"raise OSError({MISSING_SYMBOL!r})")
    found = findings_of(tmp_path, status=0)
    pair = f"{version('torchaudio')} cannot be loaded beside torch {version('torch')}: {MISSING_SYMBOL}"
    assert found["torchaudio"]["state"] == "problem"
    assert found["torchaudio"]["text"].startswith(f"{pair}; runs start without it, but LogMelEncoder")
    assert found["torchaudio"]["advice"].startswith("Install the tested versions: pip install ")
    assert found["lightning"]["state"] == "ok"


def test_without_pytorch_everything_else_is_checked(tmp_path: Path) -> None:
    break_package(tmp_path, "torch", "raise ImportError('libcudart.so.13: cannot open shared object file')")
    done = start(tmp_path, "doctor")
    assert done.returncode == 1
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    (torch,) = (line for line in lines if line.split()[1:2] == ["torch"])
    assert torch.startswith("problem  torch ")
    assert torch.endswith(f" {version('torch')} cannot be loaded: libcudart.so.13: cannot open shared object file")
    (lightning,) = (line for line in lines if line.split()[1:2] == ["lightning"])
    assert lightning.endswith(" cannot be loaded, because torch cannot")
    assert any(line.startswith("ok       codecs ") for line in lines)
    assert lines[-1].startswith("A run cannot start: torch, lightning, ")


def test_a_library_that_ends_the_process_ends_nothing_else(tmp_path: Path) -> None:
    break_package(tmp_path, "numpy", "import os; os.abort()")
    break_package(tmp_path, "rich", "raise SystemExit(7)")
    break_package(tmp_path, "soundfile", "import os; os._exit(3)")
    sys_path = os.environ.get("PYTHONPATH", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), sys_path])))
        loaded = load_all(["jsonargparse", "numpy", "rich", "soundfile", "urllib3"])
    assert loaded["numpy"] == Loaded("the process that imported it was ended by SIGABRT", "numpy")
    assert loaded["soundfile"] == Loaded("the process that imported it ended with status 3", "soundfile")
    assert loaded["rich"] == Loaded("7", "rich")
    assert loaded["urllib3"] == loaded["jsonargparse"] == Loaded()


def test_lines_and_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    findings = [ok("torch", "2.14.1"), note("/dev/shm", "64 MiB free", "docker run --shm-size=1g")]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == (
        "ok       torch     2.14.1\n"
        "note     /dev/shm  64 MiB free\n"
        "                   docker run --shm-size=1g\n"
        "\n"
        "A run can start.\n"
    )
    findings.append(problem("runs", "cannot be written to", "Start elsewhere", blocks=True))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.endswith("\nA run cannot start: runs.\n")
    assert as_lines(findings, coloured=True).splitlines()[-4].startswith("\x1b[1;31mproblem \x1b[0m runs")


def test_help_and_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--help"]) == 0
    assert "Exit status: 0, or 1 if no run can start." in capsys.readouterr().out
    assert main(["doctor", "--jason"]) == 2
    assert capsys.readouterr().err == "error: `w2vlab doctor` takes --json or nothing, but was given --jason.\n"


def test_no_personal_details_for_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    monkeypatch.setattr(socket, "gethostname", lambda: "wonder.example.org")
    seen = "/home/alice/env/libc10.so is on wonder; /scratch/alice/tmp of wonder.example.org; malice, wonderful, alice2"
    (found,) = without_names([Finding("torch", "problem", seen, "export TMPDIR=/home/alice")])
    assert found.text == "~/env/libc10.so is on …; /scratch/…/tmp of …; malice, wonderful, alice2"
    assert found.advice == "export TMPDIR=~"


def test_checks_that_fail_themselves_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(subprocess, "Popen", no_file)
    monkeypatch.setattr(tempfile, "TemporaryDirectory", no_file)
    found = {finding.name: finding for finding in doctor.examine()}
    assert found["packages"].blocks
    assert found["packages"].text == "no process could be started: [Errno 24] Too many open files"
    assert found["C++ compiler"].text.startswith("could not be checked: OSError: [Errno 24]")
    assert found["codecs"].text.startswith("not known: soundfile cannot be loaded")
    assert found["runs"].state == "ok"
