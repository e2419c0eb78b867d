"""One folder of many whose files are damaged or malicious: it is named and skipped, and the report is complete."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tests.reports.made_up import config, rows, trial, write_evaluation, write_run, write_sweep
from tests.utils.test_plain_data import multiplied
from w2vlab.reports import make_report, read_runs
from w2vlab.reports.output.pictures import draw_curves, draw_outcomes, draw_perplexity
from w2vlab.reports.output.plain import report_as_plain_data
from w2vlab.reports.output.rendering import print_table, render_cells, render_csv, render_latex, render_markdown
from w2vlab.reports.report import Report
from w2vlab.utils.plain_data import MEBIBYTE

ROW = {"update": 1, "val/loss/total": 2.0}


def as_text(value: object) -> Callable[[Path], None]:
    return lambda path: (path.parent.mkdir(parents=True, exist_ok=True), path.write_text(str(value)))[0]


def large(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(300 * MEBIBYTE)  # a sparse file


def everything(report: Report, pictures: bool) -> str:
    """Writes a report in all forms; returns the text of the notes."""
    cells = render_cells(report)
    json.dumps(report_as_plain_data(report), allow_nan=False)
    for text in (render_markdown(cells), render_latex(cells), render_csv(report)):
        text.encode()
    print_table(cells, Console(file=io.StringIO(), width=300))
    for draw in (draw_curves, draw_outcomes, draw_perplexity) if pictures else ():
        draw(report).savefig(io.BytesIO())
    return "\n".join(report.notes)


LOST = [
    ("config.yaml", as_text(multiplied("{0}: &{0} [{1}]\n"))),
    ("config.yaml", as_text("[" * 100_000)),
    ("config.yaml", as_text("a: &a [*a]")),
    ("config.yaml", as_text("? [a, b]\n: 1")),
    ("config.yaml", lambda path: path.write_bytes(bytes(range(256)))),
    ("config.yaml", large),
    ("metrics.jsonl", as_text("[" * 100_000)),
    ("metrics.jsonl", as_text(json.dumps({"update": "one", "val/loss/total": 2}))),
    ("metrics.jsonl", as_text(json.dumps({"update": True, "val/loss/total": 2}))),
    ("metrics.jsonl", as_text('{"update": NaN, "val/loss/total": 2}')),
    ("metrics.jsonl", as_text('{"update": 1e400, "val/loss/total": 2}')),
    ("metrics.jsonl", as_text('{"update": -1, "val/loss/total": 2}')),
    ("metrics.jsonl", as_text("[1, 2]\nnull\n3")),
    ("metrics.jsonl", lambda path: path.write_bytes(bytes(range(256)) * 100)),
    ("metrics.jsonl", large),
    ("report.json", as_text(json.dumps({"cost": {"seconds": "long"}}))),
    ("report.json", as_text(json.dumps({"cost": {"seconds": 1e300}}))),
    ("report.json", as_text(json.dumps({"cost": {"updates": True}}))),
    ("report.json", as_text(json.dumps({"cost": [1]}))),
    ("run.json", as_text(json.dumps({"continued": 3}))),
    ("run.json", as_text(json.dumps({"continued": ["x"]}))),
    ("run.json", as_text(json.dumps({"checkpoint": ["x"], "continued": []}))),
]
"""Files that a run cannot be read without."""

SKIPPED = [
    ("run.json", as_text("[" * 100_000)),
    ("run.json", as_text("1" * 5000)),
    ("report.json", as_text('{"a": ' * 2000)),
    ("report.json", large),
    ("evaluation/last/evaluation.json", as_text("{" * 5000)),
    ("evaluation/last/evaluation.json", as_text(json.dumps({"table": [{"name": "context", "accuracy": "x"}]}))),
    ("evaluation/last/evaluation.json", as_text('{"table": [{"name": "context", "accuracy": 1e400}], "sources": {}}')),
    ("evaluation/last/evaluation.json", as_text('{"table": [{"name": "context", "accuracy": NaN}], "sources": {}}')),
    ("evaluation/last/evaluation.json", as_text('{"table": [], "sources": {}, "corpus": 3}')),
    ("metrics.jsonl", lambda path: path.write_text(f"{json.dumps(ROW)}\n{'[' * 5000}\n{json.dumps(ROW)}\n")),
    ("metrics.jsonl", lambda path: path.write_text(f'{json.dumps(ROW)}\n"{"x" * MEBIBYTE}"\n')),
]
"""Files, or parts of files, that a run can do without."""


@pytest.mark.parametrize(("name", "write"), [*LOST, *SKIPPED])
def test_a_bad_file_in_one_of_many_folders(name: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / f"good{seed}", config(seed=seed), rows(2.0))
    bad = write_run(tmp_path / "bad", config(seed=3), rows(2.0))
    write(bad / name)
    report = make_report(read_runs([str(tmp_path)]))
    assert report.num_runs == (2 if (name, write) in LOST else 3)
    render_cells(report)
    report_as_plain_data(report)
    assert "Files that could not be read completely: 1." in report.notes
    (note,) = (note for note in report.notes if note.startswith(str(bad)))
    assert ("The run is skipped" in note) is ((name, write) in LOST)
    assert "skipped" in note
    assert len(note) < 600


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    write_run(tmp_path / "good", config(), rows(2.0))
    for number, values in enumerate(
        (
            '"val/loss/total": NaN, "val/accuracy": Infinity',
            '"val/loss/total": 1e308, "val/accuracy": -1e308',
            '"val/loss/total": 1' + "0" * 400 + ', "val/accuracy": 1e400',
            '"val/loss/total": "low", "val/accuracy": [1]',
            '"val/loss/total": 0, "val/accuracy": 0, "seconds": 1e11',
        )
    ):
        for seed in (1, 2):
            bad = write_run(tmp_path / f"bad{number}{seed}", config(seed=seed, dropout=number / 10), rows(2.0))
            (bad / "metrics.jsonl").write_text(f'{{"update": 1, {values}}}\n{{"update": 2, {values}}}\n')
    notes = everything(make_report(read_runs([str(tmp_path)])), pictures=True)
    note = "Not finite, and not in the means: val/loss/total, val/accuracy of bad01, bad02, bad11, bad12, bad21, bad22."
    assert note in notes


@pytest.mark.parametrize(
    "broken",
    [
        {"name": "../../elsewhere"},
        {"name": "/"},
        {"name": ".."},
        {"name": ["x"]},
        {"parameters": [1]},
        {"value": "low"},
        {"name": None},
    ],
)
def test_invalid_trials_of_a_record(broken: dict[str, object], tmp_path: Path) -> None:
    write_run(tmp_path / "elsewhere", config(), rows(1.0))
    write_run(tmp_path / "in" / "s" / "t1", config(), rows(2.0))
    trials = [trial("t1", {"p": 1}), {**trial("t2", {"p": 2}), **broken}]
    report = make_report(read_runs([str(write_sweep(tmp_path / "in" / "s", "s", trials))]))
    assert [run.value("val/loss/total") for line in report.lines for run in line.group.runs] == [2.0]
    assert any("sweep.json is damaged in its trial 2" in note for note in report.notes)


def test_numbers_as_keys_of_options_are_names(tmp_path: Path) -> None:
    options = {**config(), 1: {2: 3}, None: 4}
    write_run(tmp_path / "a", options, rows(2.0))
    write_run(tmp_path / "b", {**options, None: 5}, rows(2.0))
    assert make_report(read_runs([str(tmp_path)])).grouping.keys == ["None"]


NAMES = [
    "two\nlines",
    "\x1b[31mred\x1b]0;title\x07",
    "\x9b2J",
    "<script>alert(1)</script>",
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "a|b",
    "[x](http://y)",
    "![x](http://y)",
    "[red]markup[/red] :warning:",
    "$\\undefined{$",
    "\u202egnp.exe",
    "%{}_^~\\input{x}",
    "# heading",
    "[8]",
    "x" * 100_000,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_escaped_in_tables(name: str, tmp_path: Path) -> None:
    trials = []
    for number, value in enumerate(("plain", name)):
        options = config()
        options["model"]["init_args"]["extra"] = value
        write_run(tmp_path / f"t{number}", options, rows(2.0))
        trials.append(trial(f"t{number}", {name[:200]: value, "other": number}))
    trials.append({**trial("t2", {name[:200]: name, "other": 2}, "failed"), "failure": name})
    report = make_report(read_runs([str(write_sweep(tmp_path, name[:200], trials))]))
    everything(report, pictures=name.startswith(("$", "two")))  # these would break a picture
    cells = render_cells(report)
    printed = io.StringIO()
    print_table(cells, Console(file=printed, width=1000, force_terminal=False))
    texts = [printed.getvalue(), render_markdown(cells), render_latex(cells), render_csv(report)]
    for text in texts:
        assert all(sign.isprintable() or sign == "\n" for sign in text)
        assert len(text) < 10_000
    terminal, marked, set_, table = texts
    assert len(terminal.splitlines()) == 1 + len(cells.rows) + len(cells.notes)
    lines = marked.splitlines()[: 2 + len(cells.rows)]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "<" not in marked
    assert "](" not in marked.replace("\\](", "")
    assert not any(line.startswith("#") for line in marked.splitlines())
    assert all(line.count(" & ") == len(cells.columns) - 1 for line in set_.splitlines() if line.endswith(r" \\"))
    assert "\\input" not in set_
    assert "\\undefined" not in set_
    assert not any(line.startswith(("[", "*")) for line in set_.splitlines())
    read_back = list(csv.reader(io.StringIO(table)))
    assert len(read_back) == 1 + len(cells.rows)
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in read_back for cell in row)
    if name.startswith("[red]"):
        assert name in terminal


def test_negative_numbers_stay_numbers_in_csv(tmp_path: Path) -> None:
    for number, value in enumerate((-0.5, 1.5)):
        write_run(tmp_path / f"r{number}", config(shift=value), rows(2.0))
    lines = list(csv.DictReader(io.StringIO(render_csv(make_report(read_runs([str(tmp_path)]))))))
    assert sorted(line["model.shift"] for line in lines) == ["-0.5", "1.5"]


def test_evaluations_of_other_corpora_or_checkpoints_are_not_compared(tmp_path: Path) -> None:
    for number, corpus in enumerate(("one", "one", "two", "two")):
        options = config(seed=number % 2, **({"dropout": 0.1} if number > 1 else {}))
        folder = write_run(tmp_path / f"r{number}", options, rows(2.0), started=f"2026-01-0{number + 1}")
        write_evaluation(folder, 0.5 + number / 100, 0.1, 0.4)
        path = folder / "evaluation" / "last" / "evaluation.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "corpus": {"name": corpus}}))
    report = make_report(read_runs([str(tmp_path)]))
    assert report.lines[1].differences == [None, None, None]
    assert "The evaluations are not comparable: they differ in their corpus." in report.notes
