"""`w2vlab report` from the command line."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reports.made_up import config, rows, write_quantizer_sweep, write_run
from w2vlab.cli.main import main

FILES = {"report.md", "report.tex", "report.csv", "report.json", "curves.png", "outcomes.png", "perplexity.png"}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_quantizer_sweep(tmp_path / "sweep", seeds=2)


def test_a_sweep_s_report_goes_to_its_folder(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "sweep"]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines()[0].split()[:2] == ["quantizer", "seeds"]
    assert "no result (failed: RunError: out of memory)" in output.out
    assert output.err.startswith("Written: sweep/report.md")
    assert {path.name for path in sweep.iterdir() if path.is_file()} == {*FILES, "sweep.json"}
    assert (sweep / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("no_drawing")
def test_runs_and_options(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("more"), config("IdentityQuantizer", seed=7), rows(2.0), (0.5, 0.2, 0.3))
    options = ["--by=model.quantizer", "--metric", "evaluation/pnmi,val/accuracy", "--baseline=IdentityQuantizer"]
    assert main(["report", "sweep", "more", *options, "--format=csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(line["model.quantizer"], line["seeds"]) for line in lines] == [
        *(("GumbelQuantizer", "2"), ("KMeansQuantizer", "2"), ("IdentityQuantizer", "3"), ("EMAQuantizer", "1")),
    ]
    assert [line["evaluation/pnmi:difference"] == "" for line in lines] == [False, False, True, False]
    assert {path.name for path in Path("report").iterdir()} == FILES
    assert json.loads(Path("report/report.json").read_text())["baseline"] == "IdentityQuantizer"


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize(("form", "name"), [("markdown", "report.md"), ("latex", "report.tex")])
def test_printed_and_written_reports_are_equal(
    form: str, name: str, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "sweep", f"--format={form}", "--folder=out"]) == 0
    assert capsys.readouterr().out == Path("out", name).read_text()


@pytest.mark.parametrize(
    ("options", "status", "error"),
    [
        ([], 2, "report needs at least one RUN"),
        (["sweep", "--repeat=x"], 2, "--repeat takes one run"),
        (["sweep", "--format=pdf"], 2, "`format` must be one of 'terminal', 'markdown', 'latex', 'csv', but is pdf."),
        (["sweep", "--by=a,"], 2, "`by` must be names with commas between them, but is 'a,'"),
        (["sweep", "--by=model.quantiser"], 1, "Did you mean model.quantizer?"),
        (["sweep", "--baseline=x"], 1, "Groups: gumbelquantizer; kmeansquantizer"),
        (["nothing"], 1, "which does not exist"),
        (["--repeat=sweep"], 1, "`repeat` must be one run"),
    ],
)
def test_wrong_usage(
    options: list[str], status: int, error: str, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *options]) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert error in output.err
    assert "Traceback" not in output.err


def test_neither_torch_nor_lightning_is_imported(sweep: Path) -> None:
    code = """
import sys
from w2vlab.cli.main import main
status = main(["report", "sweep"])
heavy = {"torch", "lightning", "wandb", "lhotse", "torchmetrics"} & sys.modules.keys()
sys.exit(f"{status} {heavy}" if status or heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=sweep.parent)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr


VERSION = Path("w2vlab") / "version_0"


def test_real_runs_and_their_repetition(
    fit: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    logger = ["--trainer.logger=false"]
    for seed in (1, 2):
        assert fit(f"--seed_everything={seed}", f"--trainer.default_root_dir=r{seed}", logger=logger) == 0
    capsys.readouterr()
    assert main(["report", "r1", "r2", "--format=csv"]) == 0
    output = capsys.readouterr()
    (line,) = csv.DictReader(io.StringIO(output.out))
    reports = [json.loads((Path(f"r{seed}") / VERSION / "report.json").read_text()) for seed in (1, 2)]
    losses = [report["validation"][-1]["val/loss/total"] for report in reports]
    assert float(line["val/loss/total:mean"]) == pytest.approx(sum(losses) / 2)
    assert float(line["audio_seconds"]) == pytest.approx(sum(r["cost"]["audio_seconds"] for r in reports) / 2)
    assert (line["seeds"], line["updates"]) == ("2", "4.0")
    assert "could not be read" not in output.err

    assert main(["report", "--repeat", "r2"]) == 0
    *comments, command = capsys.readouterr().out.splitlines()
    assert all(comment.startswith("# ") for comment in comments)
    assert command.startswith(f"cd {tmp_path} && WANDB_MODE=offline w2vlab fit --config=")
    words = subprocess.run(
        ["sh", "-c", command.replace(" w2vlab ", " printf '%s\\n' ")], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words[-1].startswith("--trainer.default_root_dir=runs/repeats/")
    before = (Path("r2") / VERSION / "metrics.jsonl").read_text()
    assert main(words) == 0
    assert (Path("r2") / VERSION / "metrics.jsonl").read_text() == before
    (repeated,) = Path("runs", "repeats").rglob("metrics.jsonl")
    again = repeated.read_text()
    assert [json.loads(row).get("val/loss/total") for row in again.splitlines()] == [
        json.loads(row).get("val/loss/total") for row in before.splitlines()
    ]
