"""Chains of stand-in commands that fail, are killed, and are started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.extraction.hubert import chains
from w2vlab.extraction.hubert.plan import Extras
from w2vlab.extraction.hubert.record import ChainRecord
from w2vlab.extraction.hubert.running import StepError
from w2vlab.extraction.hubert.summary import make_lines

ALL = ["cluster1", "encode1", "fit1", "cluster2", "encode2", "fit2", "evaluate2"]

ROOT = Path(__file__).parents[3]


def table(folder: Path) -> list[dict[str, object]]:
    """Returns the rows of the table without times."""
    lines = make_lines(chains.iterations(), ChainRecord(folder))
    return [{k: v for k, v in line.values.items() if not k.endswith("_minutes")} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """The table of a chain that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert chains.run(folder)[0] == 0
    assert chains.calls(folder) == ALL
    return table(folder)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_table_has_the_figures_of_all_steps(whole: list[dict[str, object]]) -> None:
    first, second, untrained, mfcc = whole
    assert first == {
        **{"units_of": "mfcc", "k": 10, "inertia": 69.6, "bits_per_second": 210.5},
        **{"update": 4, "validation_loss": 2.0, "validation_accuracy": 0.2},  # validated after two
    }
    assert second["units_of"] == "iteration 1, layer 1"
    assert (second["probe"], second["probe_layer"]) == (pytest.approx(0.7), "layer 2")
    assert (second["abx"], second["abx_layer"]) == (pytest.approx(0.16), "layer 2")
    assert untrained == {"probe": 0.3, "abx": 0.35}
    assert mfcc == {"probe": 0.6, "abx": 0.17}


@pytest.mark.parametrize("name", ["cluster1", "encode2", "fit1", "evaluate2"])
def test_a_killed_chain_is_resumed_at_the_step_and_ends_with_the_same_table(
    tmp_path: Path, whole: list[dict[str, object]], name: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.extraction.hubert.chains", str(tmp_path)],
        env={**os.environ, "STAND_IN": f"wait:{name}", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )
    wait_for(tmp_path / "waits")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    before = chains.calls(tmp_path)
    assert before == ALL[: ALL.index(name) + 1]
    stopped, said = chains.run(tmp_path)
    assert stopped == 0
    resumed = f"{name} resumes" if name.startswith("fit") else name
    assert chains.calls(tmp_path) == [*before, resumed, *ALL[ALL.index(name) + 1 :]]
    assert sum("done before" in line for line in said) == ALL.index(name)
    assert table(tmp_path) == whole


def test_a_complete_chain_runs_nothing_again(tmp_path: Path, whole: list[dict[str, object]]) -> None:
    chains.run(tmp_path)
    _, said = chains.run(tmp_path)
    assert chains.calls(tmp_path) == ALL
    assert len(said) == 7
    assert all("done before" in line for line in said)
    assert table(tmp_path) == whole


def test_the_command_of_each_step_is_printed_before_it_runs(tmp_path: Path) -> None:
    _, said = chains.run(tmp_path)
    lines = [text.partition("\n")[2] for text in said if "\n" in text]
    assert lines[0] == f"w2vlab cluster mfcc speech {tmp_path}/iteration1/centers.safetensors --k 10 --seed 3 " + (
        "--exclude held_out.txt"
    )
    assert lines[1] == f"w2vlab encode mfcc speech {tmp_path}/iteration1/units --what units --centers " + (
        f"{tmp_path}/iteration1/centers.safetensors"
    )
    assert lines[2] == f"w2vlab fit --config toy.yaml --model.quantizer.path={tmp_path}/iteration1/units " + (
        f"--model.quantizer.codebook_size=10 --trainer.default_root_dir={tmp_path}/iteration1/fit"
    )
    checkpoint = next(tmp_path.glob("iteration1/fit/*/*/checkpoints/last.ckpt"))
    assert lines[3].startswith(
        f"w2vlab cluster {checkpoint} speech {tmp_path}/iteration2/centers.safetensors --layer 1"
    )
    assert lines[6].startswith(f"w2vlab evaluate {tmp_path}/iteration2/fit/w2vlab/")


def test_a_failing_step_ends_the_chain_with_its_last_lines_and_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STAND_IN", "fail:fit1")
    with pytest.raises(StepError, match=r"fit1 failed with status 1; its last lines are above\."):
        chains.run(tmp_path)
    assert capfd.readouterr().err == "error: `lr` must be smaller.\n"
    monkeypatch.delenv("STAND_IN")
    assert chains.run(tmp_path)[0] == 0
    assert chains.calls(tmp_path) == [*ALL[:3], "fit1 resumes", *ALL[3:]]


def test_a_step_without_a_result_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN", "silent:cluster1")
    with pytest.raises(
        StepError, match=r"cluster1 ended with status 0, but its result is not in .*centers\.safetensors"
    ):
        chains.run(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_ends_the_step_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    monkeypatch.setenv("STAND_IN", "wait:fit1")
    before = signal.signal(number, signal.default_int_handler)  # under nohup SIGHUP would be ignored

    def interrupt() -> None:
        wait_for(tmp_path / "waits")
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        stopped, _ = chains.run(tmp_path)
    finally:
        signal.signal(number, before)
    thread.join()
    assert stopped == number
    assert chains.calls(tmp_path) == ALL[:3]
    sent = signal.SIGTERM if number == signal.SIGHUP else number
    assert f"stopped by {sent}" in capfd.readouterr().err  # it could save its state
    assert not ChainRecord(tmp_path).steps["fit1"].finished


def test_a_second_signal_kills_a_step_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN", "deaf:evaluate2")

    def interrupt() -> None:
        wait_for(tmp_path / "waits")
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.2)  # signals of one kind that come together are one
        os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert chains.run(tmp_path)[0] == signal.SIGUSR1
    thread.join()


def test_what_nothing_needs_any_more_may_be_deleted(tmp_path: Path) -> None:
    """Units are large; those of an iteration whose run has finished are not computed again."""
    chains.run(tmp_path)
    for path in (tmp_path / "iteration1" / "units").glob("*"):
        path.rmdir() if path.is_dir() else path.unlink()
    _, said = chains.run(tmp_path)
    assert chains.calls(tmp_path) == ALL
    assert "encode1: done before" in said[1]
    assert said[1].endswith("its files are missing, and nothing needs them")


def test_what_is_missing_and_needed_is_computed_again(tmp_path: Path) -> None:
    chains.run(tmp_path)
    (tmp_path / "iteration2" / "units" / "encoding.json").unlink()
    next(tmp_path.glob("iteration2/fit/*/*/checkpoints/last.ckpt")).unlink()
    _, said = chains.run(tmp_path)
    assert chains.calls(tmp_path) == [*ALL, "encode2", "fit2", "evaluate2"]
    assert any("encode2: its files are missing, it runs again" in line for line in said)


def test_every_iteration_can_be_evaluated(tmp_path: Path) -> None:
    steps = chains.steps_in(tmp_path, extras=Extras(evaluated="each", evaluate=["--corpus", "toy"]))
    chains.run(tmp_path, steps)
    assert chains.calls(tmp_path) == [*ALL[:3], "evaluate1", *ALL[3:]]
    first, second, *_ = table(tmp_path)
    assert first["abx"] == second["abx"]


def test_a_chain_without_an_evaluation_ends_with_its_last_run(tmp_path: Path) -> None:
    steps = chains.steps_in(tmp_path, 1, extras=Extras(evaluated="none"))
    chains.run(tmp_path, steps)
    assert chains.calls(tmp_path) == ALL[:3]
    assert len(table(tmp_path)) == 2  # no controls


def test_a_later_iteration_is_added_to_a_chain(tmp_path: Path) -> None:
    chains.run(tmp_path)
    chains.run(tmp_path, chains.steps_in(tmp_path, 3))
    assert chains.calls(tmp_path) == [*ALL, "cluster3", "encode3", "fit3", "evaluate3"]
