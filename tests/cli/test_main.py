"""The console script, as far as it needs no PyTorch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import w2vlab
from w2vlab.cli.main import main

COMMANDS = (
    *("fit", "validate", "evaluate", "compare", "prepare", "encode", "cluster", "hubert", "export", "import"),
    *("sweep", "report", "explain", "batch-size", "parts", "configs", "doctor"),
)


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_help_names_the_commands(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    output = capsys.readouterr().out
    assert all(f"\n  {command} " in output for command in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"w2vlab {w2vlab.__version__}\n"


def test_unknown_command_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fitt"]) == 2
    assert capsys.readouterr().err == (
        f"error: Unknown command 'fitt'. Known: {', '.join(COMMANDS)}. Did you mean fit?\n"
    )


@pytest.mark.parametrize(
    "args",
    [
        *(["--help"], ["--version"], ["parts"], ["configs"], ["nonsense"]),
        *(
            [command, "--help"]
            for command in ("evaluate", "compare", "prepare", "encode", "cluster", "hubert", "export", "import")
        ),
        *(["batch-size", "--help"], ["batch-size"], ["batch-size", "quickstart", "--rounds=none"]),
        *(["export", "a.ckpt", "b", "--format=gguf"], ["import", "a.ckpt"]),
    ],
)
def test_light_commands_do_without_torch(args: list[str]) -> None:
    code = f"import sys; from w2vlab.cli.main import main; main({args!r}); sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0
    assert run.stdout or run.stderr


def test_runs_as_a_module() -> None:
    run = subprocess.run([sys.executable, "-m", "w2vlab", "--version"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, f"w2vlab {w2vlab.__version__}\n")


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_a_command_starts_as_a_process(command: str) -> None:
    """Other tests fork it, or call `main`; `fit`, `sweep`, `report` and `explain` are started elsewhere."""
    words = [sys.executable, "-m", "w2vlab", command, "nowhere.ckpt"]
    run = subprocess.run(words, capture_output=True, text=True)
    assert run.returncode in (1, 2)
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert "Traceback" not in run.stderr


def test_closed_pipe_is_not_an_error() -> None:
    code = "import os; r, w = os.pipe(); os.dup2(w, 1); os.close(r)\nfrom w2vlab.cli.main import main; main(['parts'])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stderr == ""


def test_a_signal_while_libraries_are_imported_has_the_status_of_a_run() -> None:
    """PyTorch takes seconds to import, and a library in the middle of that would make something else of it."""
    code = """
import os, signal, sys
from w2vlab.cli.main import main

COMMANDS = ("fit", "validate", "evaluate", "compare", "sweep", "report", "explain", "parts", "doctor")

class Signals:
    def find_spec(self, name, *_):
        if name == "w2vlab.cli.fit":
            os.kill(os.getpid(), signal.SIGUSR1)

sys.meta_path.insert(0, Signals())
main(["fit"])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 138
    assert "SIGUSR1: ended before the run had started." in ended.stderr
