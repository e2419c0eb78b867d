"""`w2vlab hubert`, from the command line to the table."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import yaml

from tests.cli.conftest import RUN
from tests.evaluation.conftest import write_labelled
from tests.extraction.hubert import chains
from tests.processes import forked
from w2vlab.cli.main import main
from w2vlab.extraction.acoustic import ACOUSTIC
from w2vlab.extraction.hubert import running
from w2vlab.extraction.hubert.plan import WITHOUT_LAYERS
from w2vlab.extraction.hubert.running import kill_group

ALL = ["cluster1", "encode1", "fit1", "cluster2", "encode2", "fit2", "evaluate2"]


@pytest.fixture
def config(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny run with targets from a file, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    run: dict[str, Any] = copy.deepcopy(RUN)
    run["model"]["init_args"] |= {
        "quantizer": {"class_path": "FileTargets"},
        "loss": {"class_path": "CodePredictionLoss", "init_args": {"similarity": "cosine"}},
        "penalties": {},
    }
    run["data"] = yaml.safe_load(tiny_config.read_text())["data"]
    run["trainer"]["logger"] = {"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "name": "w2vlab"}}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps are commands that compute nothing."""
    monkeypatch.setattr("w2vlab.cli.corpus.hubert.own_program", lambda: chains.PROGRAM)


Chain = Callable[..., int]


@pytest.fixture
def hubert(config: Path) -> Chain:
    """Calls the command."""
    return lambda *options: main(["hubert", str(config), "--k=4,6", *options])


def test_a_dry_run_prints_a_script_and_writes_nothing(
    hubert: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hubert("--dry_run", "--corpus", "toy", "--trainer.max_steps=3", "--devices=2") == 0
    printed = capsys.readouterr().out
    commands = [line for line in printed.splitlines() if not line.startswith("#")]
    assert [line.split()[1] for line in commands] == [name.rstrip("12") for name in ALL]
    assert re.findall(r"^# (\w+)$", printed, re.MULTILINE) == ALL
    assert [line.count(" --devices 2") for line in commands] == [1, 1, 0, 1, 1, 0, 0]
    assert f"fit --config {tmp_path}/tiny.yaml --trainer.max_steps=3 --trainer.devices=2 " in commands[5]
    assert "--model.quantizer.path=runs/hubert/tiny/iteration2/units --model.quantizer.codebook_size=6" in commands[5]
    assert commands[6] == "w2vlab evaluate runs/hubert/tiny/iteration2/fit/*/*/checkpoints/last.ckpt " + (
        f"--cache_dir {yaml.safe_load((tmp_path / 'tiny.yaml').read_text())['data']['cache_dir']} --corpus toy"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.max_step=3"], "iteration 1 cannot start: Unknown argument --trainer.max_step. Did you mean"),
        (["--model.quantizer=GumbelQuantizer"], "`model.quantizer` must be FileTargets, which takes units from a file"),
        (["--model.quantizer.num_codebooks=2"], "`model.quantizer.num_codebooks` must be 1, because an iteration has"),
        (["--data.validation=other"], "`data.validation` must not be set, because only the units of `data.corpus`"),
        (["--data.corpus={a: x, b: y}"], "`data.corpus` must be one corpus, because an iteration has the units of one"),
        (["--data.corpus=[x, y]"], "`data.corpus` must be one corpus, because an iteration has the units of one"),
        (["--data.validation={a: x}"], "`data.validation` must not be set, because only the units of `data.corpus`"),
        (["--ckpt_path=last"], "`ckpt_path` must not be given, because the chain sets it: the same command resumes."),
        (["--trainer.default_root_dir=x"], "`trainer.default_root_dir` must not be given, because the chain sets it"),
        (["--model.quantizer.init_args.codebook_size=9"], "the chain sets it: use --k."),
        (["--cluster=--k 9"], "`cluster` must not have --k, because the chain sets it: use --k."),
        (["--encode=--what features"], "`encode` must not have --what, because the chain sets it: a run needs units."),
        (["--evaluate=--folder x"], "`evaluate` must not have --folder, because the chain sets it: the result is in"),
        (["--redo=fit9"], "`redo` must be changed or steps (cluster1, encode1, fit1, cluster2"),
    ],
)
def test_what_cannot_run_is_reported_before_the_first_step(
    hubert: Chain, capsys: pytest.CaptureFixture[str], stand_ins: None, options: list[str], message: str
) -> None:
    assert hubert(*options) == 1
    assert message in capsys.readouterr().err
    assert not list(Path().glob("runs/hubert/tiny/iteration*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k=1"], "`k` must be numbers of at least 2 with commas between them, but is 1."),
        (["--k=4,6,8"], "`k` must be at most 2 numbers for these iterations, but is 4,6,8."),
        (["--iterations=1", "--layers=1"], "`layers` has no effect, because no layer of a model is clustered"),
        (["--first=model.ckpt"], "`layers` must begin with the layer of model.ckpt to cluster, but is not given."),
        (["--iterations=0"], "`iterations` must be at least 1, but is 0."),
        (["--evaluate=--abx_cell 3"], "Unknown argument --abx_cell."),
        (["--cluster=--kk 3"], "Unknown argument --kk."),
        (["--encode='"], "`encode` must be options as in a shell, but is not: No closing quotation."),
        (["--out"], "`out` needs a value."),
    ],
)
def test_wrong_usage(config: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main(["hubert", str(config), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_configuration_is_that_of_all_further_iterations(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "second.yaml").write_text(config.read_text().replace("num_layers: 1", "num_layers: 4"))
    assert main(["hubert", "tiny.yaml", "second.yaml", "--iterations=3", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"--config (\S+)", printed) == ["tiny.yaml", "second.yaml", "second.yaml"]
    assert re.findall(r"--layer (\d)", printed) == ["1", "2"]  # the middle one of the model of the iteration before
    assert re.findall(r"--k (\d+)", printed) == ["100", "500", "500"]


def test_the_published_models_have_four_entries_more_than_clusters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hubert", "hubert_base", "hubert_base_iteration2", "--dry_run", "--data.corpus=speech"]) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"--k (\d+)", printed) == ["100", "500"]
    assert re.findall(r"codebook_size=(\d+)", printed) == ["104", "504"]
    assert re.findall(r"--layer (\d)", printed) == ["6"]


def test_sources_that_are_no_models_are_those_of_cluster() -> None:
    assert set(WITHOUT_LAYERS) == set(ACOUSTIC)


def test_a_failed_chain_says_what_is_complete_and_resumes(
    hubert: Chain, stand_ins: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STAND_IN", "fail:encode1")
    assert hubert() == 1
    error = capfd.readouterr().err
    assert error.endswith(
        "error: `lr` must be smaller.\nerror: encode1 failed with status 1; its last lines are above.\n"
        f"Complete: cluster1. The same command resumes there:\nw2vlab hubert {Path.cwd()}/tiny.yaml --k=4,6\n"
    )
    monkeypatch.delenv("STAND_IN")
    assert hubert() == 0
    printed = capfd.readouterr().out
    assert "[1/7] cluster1: done before" in printed
    assert "Written: runs/hubert/tiny/hubert.md. Curves: w2vlab report runs/hubert/tiny" in printed
    table = Path("runs/hubert/tiny/hubert.md").read_text().splitlines()
    assert table[0].startswith("| iteration | units of | k | inertia | bit/s | updates | val loss |")
    assert table[2].startswith("| 1 | mfcc | 4 | 69.6 | 210.5 | 4 | 2.000 | 20.0 |")
    assert table[3].startswith(
        "| 2 | iteration 1, layer 1 | 6 | 69.6 | 210.5 | 4 | 2.000 | 20.0 | 70.0 | layer 2 | 16.00 |"
    )
    rows = json.loads(Path("runs/hubert/tiny/table.json").read_text())
    assert [row["iteration"] for row in rows] == ["1", "2", "untrained", "MFCC"]


def test_an_interrupted_chain_has_the_status_of_the_signal(
    hubert: Chain, stand_ins: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STAND_IN", "wait:fit1")

    def interrupt() -> None:
        while not Path("runs/hubert/tiny/waits").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert hubert() == 130
    thread.join()
    assert (
        "Interrupted by SIGINT. Complete: cluster1, encode1. The same command resumes there:" in capfd.readouterr().out
    )


def test_a_full_disk_is_an_error_in_a_line(
    hubert: Chain, stand_ins: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def write(*_: object) -> None:
        raise OSError(28, "No space left on device", "hubert.json")

    monkeypatch.setattr("w2vlab.extraction.hubert.record.write_atomically", write)
    assert hubert() == 1
    error = capfd.readouterr().err
    assert (
        "error: [Errno 28] No space left on device: 'hubert.json'\nComplete: no step. The same command resumes" in error
    )


def test_two_chains_do_not_share_a_folder(
    hubert: Chain, stand_ins: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STAND_IN", "wait:cluster1")
    status: list[int] = []

    def second() -> None:
        while not Path("runs/hubert/tiny/waits").exists():
            time.sleep(0.01)
        status.append(hubert())
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=second)
    thread.start()
    assert hubert() == 143
    thread.join()
    assert status == [1]
    assert "`out` must not be in use, but a chain (process " in capfd.readouterr().err


def steps_as(popen: type[subprocess.Popen[bytes]]) -> SimpleNamespace:
    """Returns what is used of `subprocess`, with other processes."""
    return SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)


class Killed(forked.Popen):
    """A step in a forked process that is killed once for each kind, when it has begun to write."""

    done: ClassVar[set[str]] = set()

    def __init__(self, command: list[str], **options: Any) -> None:
        super().__init__(command, **options)
        kind = command[3]
        if kind not in self.done:
            self.done.add(kind)
            threading.Thread(target=self._kill, args=[kind]).start()

    def _kill(self, kind: str) -> None:
        begun = {"encode": "iteration1/units/**/*", "fit": "iteration1/fit/**/*.ckpt"}.get(kind)
        if begun is None:  # it writes its result only
            time.sleep(0.3)
        while begun is not None and self.poll() is None and not any(Path("runs/hubert/tiny").glob(begun)):
            time.sleep(0.02)
        kill_group(self)


def test_two_iterations_in_which_every_kind_of_step_is_killed_once(
    hubert: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What each step leaves is what it leaves in a chain that nothing interrupts, to the last digit."""
    corpus = write_labelled(tmp_path / "voice", 12)
    evaluation = f"--corpus={corpus} --layers=context --abx_cells=20 --abx_utterances=all --wandb=off --device=cpu"
    options = [f"--data.corpus={corpus}", "--layers=1", f"--evaluate={evaluation}"]

    def rows(out: str) -> list[dict[str, Any]]:
        content = json.loads(Path(out, "table.json").read_text())
        return [{k: v for k, v in row.items() if not k.endswith("_minutes")} for row in content]

    monkeypatch.setattr(running, "subprocess", steps_as(Killed))
    for name in ("cluster1", "encode1", "fit1", "evaluate2"):
        assert hubert(*options) == 1
        assert f"{name} was ended by SIGKILL" in capfd.readouterr().err
    assert hubert(*options) == 0
    first, second, untrained, mfcc = rows("runs/hubert/tiny")
    assert (first["units_of"], first["k"], second["units_of"], second["k"]) == ("mfcc", 4, "iteration 1, layer 1", 6)
    assert {"inertia", "bits_per_second", "validation_loss", "validation_accuracy"} <= first.keys() & second.keys()
    assert all(0 < row[measure] <= 1 for row in (second, untrained, mfcc) for measure in ("probe", "abx"))
    record = json.loads(Path("runs/hubert/tiny/hubert.json").read_text())["steps"]
    assert list(record) == ALL
    assert all(step["finished"] for step in record.values())

    monkeypatch.setattr(running, "subprocess", steps_as(forked.Popen))
    assert main(["hubert", "tiny.yaml", "--k=4", "--iterations=1", "--evaluated=none", "--out=whole", options[0]]) == 0
    assert rows("whole") == [first]
