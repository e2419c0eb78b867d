"""The pages on Python, environment variables, exit statuses and one's own parts are correct."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.processes import forked
from w2vlab.callbacks.fault_tolerance.stopping import SIGNALS, Stopped
from w2vlab.cli.main import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    (path,) = (path for path in DOCS.rglob(f"{name}.md") if "_build" not in path.parts)
    return path.read_text(encoding="utf-8")


def test_the_code_of_the_python_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """From a folder of audio to codes, in order."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speech").mkdir()
    noise = np.random.default_rng(0)
    for number in range(20):
        soundfile.write(f"speech/{number:02}.wav", 0.1 * noise.normal(size=24_000 + 500 * number), 16_000)
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "cache"))
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", page("python"), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert names["trainer"].global_step == 2
    assert names["contexts"].shape[:2] == names["codes"].shape[:2]
    assert names["status"] == 0
    assert "nats a prediction" in capsys.readouterr().out


def test_every_environment_variable_is_on_the_page() -> None:
    """Those of the code and of the scripts. Names that end with an underscore are prefixes."""
    used: set[str] = set()
    for path in [*ROOT.glob("w2vlab/**/*.py"), *ROOT.glob("scripts/**/*")]:
        if path.is_file():
            used |= set(re.findall(r"W2VLAB_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8")))
    assert used == set(re.findall(r"^\| `(W2VLAB_\w+)` \|", page("environment"), re.MULTILINE))


def statuses() -> set[int]:
    return {int(status) for status in re.findall(r"^\| (\d+) \|", page("environment"), re.MULTILINE)}


def test_every_exit_status_is_on_the_page() -> None:
    """The statuses in the code: of parsers, of errors that end a process, and of signals."""
    ends = re.compile(
        r"(?:SystemExit|\b_exit|\.exit|sys\.exit)\((\d+)[,)]|_INTERRUPTED = (\d+)|^    return ([012])$", re.M
    )
    used = {0, *(Stopped(number).status for number in SIGNALS)}
    for path in [*ROOT.glob("w2vlab/cli/**/*.py"), *ROOT.glob("w2vlab/callbacks/**/*.py")]:
        for found in ends.findall(path.read_text(encoding="utf-8")):
            used |= {int(status) for status in found if status}
    assert used == statuses()


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (["configs"], 0),
        (["configs", "show", "no-such-recipe"], 1),
        (["evaluate", "no-such.ckpt"], 1),
        (["fit", "--config", "no-such.yaml"], 2),
        (["no-such-command"], 2),
        (["parts", "no-such-family"], 2),
    ],
)
def test_commands_have_the_statuses_of_the_page(
    args: list[str], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(args) == status
    assert status in statuses()


def test_a_signal_has_the_status_of_the_page() -> None:
    said = {
        name: int(status) for status, name in re.findall(r"^\| (\d+) \| Ended by (SIG\w+)", page("environment"), re.M)
    }
    assert said == {signal.Signals(number).name: Stopped(number).status for number in SIGNALS}


PART_COMMANDS = re.findall(r"^    PYTHONPATH=(\S+) w2vlab fit (.*)$", page("write_a_part"), re.MULTILINE)


@pytest.mark.parametrize(
    ("part", "where"),
    [("PeriodicMasking", "masking"), ("RankingLoss", "loss"), ("SnapshotTeacher", "teacher")],
    ids=["masking", "loss", "teacher"],
)
def test_one_flag_selects_an_example(part: str, where: str) -> None:
    (found,) = [(path, options) for path, options in PART_COMMANDS if part in options]
    command = [sys.executable, "-m", "w2vlab", "explain", *shlex.split(found[1]), "--no_gradients", "--json"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / found[0]}:{os.environ.get('PYTHONPATH', '')}"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    explained = json.loads(run.stdout)
    assert explained["classes"][where] == part
    if part == "PeriodicMasking":
        assert explained["masking"]["hidden"] == pytest.approx(3 / 8, abs=0.01)
        assert (
            "`model.masking` is PeriodicMasking now, and keeps the options set for SpanMasking: length 3." in run.stderr
        )


def test_the_examples_pass_the_contracts_and_their_own_tests() -> None:
    (line,) = re.findall(r"^    PYTHONPATH=(\S+) pytest (-p periodic.*)$", page("write_a_part"), re.MULTILINE)
    arguments = shlex.split(line[1])
    parts = arguments.index("PeriodicMasking or RankingLoss or SnapshotTeacher")
    arguments[parts] += " or test_periodic or test_ranking or test_snapshot"
    command = [sys.executable, "-m", "pytest", "-n0", "-v", "-p", "no:cacheprovider", *arguments, "docs/examples"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / line[0])}
    run = forked.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    passed = re.findall(r"^(\S+)::(\S+) PASSED", run.stdout, re.MULTILINE)
    examples = (
        ("PeriodicMasking", "test_periodic", 8),
        ("RankingLoss", "test_ranking", 8),
        ("SnapshotTeacher", "test_snapshot", 5),
    )
    for part, own, least in examples:
        assert sum(part in name for file, name in passed if "contracts" in file) >= least, (
            "the contracts do not know it"
        )
        assert any(own in file for file, _ in passed)


def test_the_commands_of_the_notebooks_page_are_valid() -> None:
    text = page("opening_notebooks")
    assert '".[notebooks]"' in text
    assert re.search(r"^notebooks = ", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    (config,) = re.findall(r"w2vlab fit --config (\S+)", text)
    assert (ROOT / config).is_file()
    chosen = re.findall(r"pytest tests/notebooks -k (\S+)", text)
    assert chosen
    assert all((ROOT / "notebooks" / f"{name}.ipynb").is_file() for name in chosen)
