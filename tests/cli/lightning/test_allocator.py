"""A training on a CPU starts itself again with other settings of the allocator, and nothing else does."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from w2vlab.cli import main as console
from w2vlab.cli.lightning import allocator, memory

SETTINGS = allocator.settings_as_environment()


@pytest.fixture(autouse=True)
def _can_be_restarted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(allocator, "_GPU_DEVICES", (str(tmp_path / "gpu"),))
    monkeypatch.setattr(allocator, "_glibc_version", lambda: (2, 36))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    monkeypatch.setattr(sys, "getprofile", lambda: None)
    monkeypatch.setattr(sys, "argv", ["w2vlab", "fit", "--a=b c"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "w2vlab", "fit", "--a=b c"])
    monkeypatch.setattr(threading, "active_count", lambda: 1)


def test_a_usual_environment_allows_it() -> None:
    assert allocator._may_be_restarted({"PATH": "/bin", "THP_MEM_ALLOC_ENABLE": "1"})


@pytest.mark.parametrize(
    "environment",
    [
        SETTINGS,
        {"GLIBC_TUNABLES": ""},
        {"MALLOC_ARENA_MAX": "1"},
        {"LD_PRELOAD": "x.so"},
        {"W2VLAB_ALLOCATOR": "default"},
    ],
)
def test_an_allocator_that_is_chosen_stays(environment: dict[str, str]) -> None:
    assert not allocator._may_be_restarted(environment)


@pytest.mark.parametrize(
    "case",
    ["gpu", "old", "another library", "macos", "debugger", "profiler", "monitor", "fork", "threads", "stdin", "pipe"],
)
def test_where_it_would_not_help_or_would_do_harm(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if case == "gpu":
        (tmp_path / "gpu").touch()
    elif case in ("old", "another library"):
        monkeypatch.setattr(allocator, "_glibc_version", lambda: (2, 34) if case == "old" else ())
    elif case == "macos":
        monkeypatch.setattr(sys, "platform", "darwin")
    elif case == "fork":  # as of a server that runs commands in processes of its own
        monkeypatch.setattr(sys, "orig_argv", ["python", "server.py", "3"])
    elif case == "threads":
        monkeypatch.setattr(threading, "active_count", lambda: 2)
    elif case == "monitor":
        monitoring = SimpleNamespace(get_tool=lambda tool: "a debugger" if tool == 0 else None)
        monkeypatch.setattr(sys, "monitoring", monitoring, raising=False)
    elif case in ("stdin", "pipe"):  # `python - fit < program`, `python <(program) fit`
        os.mkfifo(tmp_path / "pipe")
        program = "-" if case == "stdin" else str(tmp_path / "pipe")
        monkeypatch.setattr(sys, "orig_argv", ["python", program, "fit", "--a=b c"])
    else:
        name = "gettrace" if case == "debugger" else "getprofile"
        monkeypatch.setattr(sys, name, lambda: test_a_usual_environment_allows_it)
    assert not allocator._may_be_restarted({})


@pytest.mark.parametrize(
    ("words", "expected"), [(["fit", "--help"], True), (["batch-size"], True), (["parts"], False), ([], False)]
)
def test_only_a_training_from_the_command_line_starts_again(
    words: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(console, "restart_with_settings", lambda: calls.append(1))
    monkeypatch.setattr(console, "_run", lambda args: 0)
    monkeypatch.setattr(sys, "argv", ["w2vlab", *words])
    console.main(words)
    assert not calls
    console.main()
    assert bool(calls) == expected


SCRIPT = """
import json, os, sys
from w2vlab.cli.lightning.allocator import restart_with_settings
before = os.getpid() if "pid" not in os.environ else int(os.environ["pid"])
os.environ["pid"] = str(before)
restart_with_settings()
print(json.dumps([before == os.getpid(), sys.argv[1:], os.environ.get("GLIBC_TUNABLES")]))
"""


restarts_here = pytest.mark.skipif(
    allocator._glibc_version() < (2, 35) or any(map(os.path.exists, allocator._GPU_DEVICES)),
    reason="another C library, an older one, or a GPU",
)


def _plain_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_", "LD_", "W2VLAB_", "COVERAGE", "COV_"))
    }


@restarts_here
@pytest.mark.parametrize("words", [["fit", "--a=b c"], ["fit", "--новый\nязык=\t'\"", ""]])
def test_a_process_keeps_its_id_and_its_command(words: list[str]) -> None:
    command = [sys.executable, "-c", SCRIPT, *words]
    done = subprocess.run(command, env=_plain_environment(), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [True, words, SETTINGS["GLIBC_TUNABLES"]]


@restarts_here
@pytest.mark.parametrize("program", ["-", "/dev/stdin"])
def test_a_program_from_a_pipe_is_run(program: str) -> None:
    command = [sys.executable, program, "fit"]
    done = subprocess.run(command, env=_plain_environment(), input=SCRIPT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [True, ["fit"], None]


def test_a_process_that_cannot_be_started_again_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SETTINGS, "W2VLAB_ALLOCATOR", "LD_PRELOAD", "LD_AUDIT"):
        monkeypatch.delenv(name, raising=False)
    tried = []

    def too_long(path: str, words: list[str], environment: dict[str, str]) -> None:
        tried.append(environment)
        raise OSError(errno.E2BIG, "Argument list too long")

    monkeypatch.setattr(os, "execve", too_long)
    before = dict(os.environ)
    allocator.restart_with_settings()
    assert len(tried) == 1
    assert dict(os.environ) == before
    # Where the system discards the settings, as of programs with privileges, the process does not start for ever.
    assert not allocator._may_be_restarted({name: tried[0][name] for name in tried[0] if name not in SETTINGS})


@pytest.mark.parametrize("tuned", [False, True])
def test_pytorch_aligns_no_tensors_in_a_heap_of_large_pages(tuned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in memory.LARGE_PAGES:
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)
    if tuned:
        monkeypatch.setenv("GLIBC_TUNABLES", SETTINGS["GLIBC_TUNABLES"])
    else:
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    memory.use_large_pages()
    assert all((name in os.environ) != tuned for name in memory.LARGE_PAGES)
