"""The table of a report, in all formats."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.reports.made_up import config, rows, trial, write_evaluation, write_quantizer_sweep, write_run, write_sweep
from w2vlab.reports import Report, make_report, read_runs
from w2vlab.reports.output.plain import report_as_plain_data
from w2vlab.reports.output.rendering import (
    escape_latex,
    print_table,
    render_cells,
    render_csv,
    render_latex,
    render_markdown,
)
from w2vlab.reports.published import load_published
from w2vlab.utils.comparable import describe_objective_differences

PUBLISHED = """
quantizers:
  source: "Somebody 2020, Table 5"
  outcome: "word error rate in percent"
  rows:
    - {parameters: {model.quantizer: configs/quantizer/gumbelquantizer.yaml}, mean: 8.33, deviation: null}
    - {parameters: {model.quantizer: configs/quantizer/emaquantizer.yaml}, mean: 9.5, deviation: 0.25}
"""


def two_by_two(folder: Path, second: Any = None, **values: Any) -> Path:
    """Two groups of two seeds, of which the first has losses 1 and 3, and the second 5 and 7."""
    for index, loss in enumerate((1.0, 3.0, 5.0, 7.0)):
        options = config(seed=1 + index % 2)
        if index > 1:
            options["model"]["init_args"] |= second or {"dropout": 0.1}
        write_run(folder / f"r{index}", options, rows(loss, **values), started=f"2026-01-0{index + 1}")
    return folder


def report_of(folder: Path, **options: Any) -> Report:
    return make_report(read_runs([str(folder)]), **options)


def test_means_and_differences(tmp_path: Path) -> None:
    report = report_of(two_by_two(tmp_path))
    assert [outcome.metric for outcome in report.outcomes] == [
        *("val/loss/total", "val/accuracy", "val/codebook/perplexity_hard"),
    ]
    cells = render_cells(report)
    assert cells.columns[:5] == ["dropout", "seeds", "val/loss/total", "difference", "val/accuracy %"]
    assert cells.rows[0][:4] == ["–", "2", "2.000 ± 1.414", "baseline"]  # noqa: RUF001
    half = 4.302653 * math.sqrt(2)
    assert cells.rows[1][:4] == ["0.1", "2", "6.000 ± 1.414", f"+4.000 [{4 - half:+.3f}, {4 + half:+.3f}]"]
    assert cells.rows[1][-4:] == ["0:01:40", "1.11", "200", "1.50"]
    assert not any("not comparable" in note for note in report.notes)


def test_another_baseline(tmp_path: Path) -> None:
    report = report_of(two_by_two(tmp_path), baseline="0.1")
    assert render_cells(report).rows[0][3].startswith("-4.000 [")
    assert render_cells(report).rows[1][3] == "baseline"
    with pytest.raises(ValueError, match=r"`baseline` must .*, but '0.2' matches none. Groups: .; 0.1."):
        report_of(tmp_path, baseline="0.2")


def test_an_ambiguous_baseline(tmp_path: Path) -> None:
    sweep = write_quantizer_sweep(tmp_path, seeds=1)
    with pytest.raises(ValueError, match="'40' matches several"):
        report_of(sweep, by=["model.quantizer", "model.quantizer.codebook_size"], baseline="40")
    assert report_of(sweep, by=["model.quantizer", "model.quantizer.codebook_size"], baseline="80").baseline == 3


@pytest.mark.parametrize(
    ("second", "difference"),
    [
        ({"loss": {"class_path": "w2vlab.losses.CodePredictionLoss"}}, "the loss, their negatives"),
        (
            {"loss": {"class_path": "w2vlab.losses.ContrastiveLoss", "init_args": {"num_negatives": 50}}},
            "their negatives",
        ),
        (
            {"quantizer": {"class_path": "w2vlab.quantizers.GumbelQuantizer", "init_args": {"codebook_size": 80}}},
            "the number of code entries",
        ),
        (
            {"quantizer": {"class_path": "w2vlab.quantizers.FileTargets", "init_args": {"path": "units/other"}}},
            "the quantizer, the units, the number of code entries",
        ),
        ({"penalties": {"diversity": {"class_path": "DiversityPenalty", "init_args": {"weight": 0}}}}, "the penalties"),
    ],
)
def test_losses_of_different_objectives_are_not_comparable(second: Any, difference: str, tmp_path: Path) -> None:
    report = report_of(two_by_two(tmp_path, second))
    assert report.notes[0] == (
        f"val/loss/total and val/accuracy are not comparable between these groups: they differ in {difference}."
    )
    loss, accuracy, perplexity = report.lines[1].differences
    assert loss is accuracy is None
    assert perplexity is not None


def test_runs_from_before_there_were_samplers_have_the_same_negatives() -> None:
    before = {"model.loss": "ContrastiveLoss", "model.loss.num_negatives": 100}
    assert describe_objective_differences([before, {**before, "model.loss.negatives": None}]) == ""
    assert (
        describe_objective_differences([before, {**before, "model.loss.negatives": "CodebookNegatives"}])
        == "their negatives"
    )


def test_one_seed_a_side_has_a_dash_for_an_interval(tmp_path: Path) -> None:
    write_run(tmp_path / "a", config(), rows(1.0), started="2026-01-01")
    write_run(tmp_path / "b", config(dropout=0.1), rows(1.5), started="2026-01-02")
    cells = render_cells(report_of(tmp_path))
    assert cells.rows[1][2:4] == ["1.500", "+0.500 [–]"]  # noqa: RUF001
    assert any("if a group has one seed only" in note for note in cells.notes)


def test_values_that_are_not_finite_are_listed_and_not_averaged(tmp_path: Path) -> None:
    two_by_two(tmp_path)
    write_run(tmp_path / "r3", config(seed=2, dropout=0.1), rows(math.inf), started="2026-01-04")
    report = report_of(tmp_path)
    assert [mean.number for mean in (report.lines[0].means[0], report.lines[1].means[0])] == [2, 1]
    assert "Not finite, and not in the means: val/loss/total of r3." in report.notes
    json.dumps(report_as_plain_data(report), allow_nan=False)


def test_evaluations_are_the_outcomes_and_missing_ones_are_listed(tmp_path: Path) -> None:
    write_run(tmp_path / "a", config(), rows(1.0), (0.61, 0.1, 0.4))
    report = report_of(tmp_path)
    assert render_cells(report).columns[2:5] == ["phone probe %", "ABX within %", "PNMI %"]
    assert render_cells(report).rows[0][2:5] == ["61.0", "10.0", "40.0"]
    write_run(tmp_path / "b", config(seed=2), rows(1.0))
    report = report_of(tmp_path)
    assert "val/loss/total" in render_cells(report).columns
    note = "Not measured (run `w2vlab evaluate`): evaluation/probe, evaluation/abx_within, evaluation/pnmi of b."
    assert note in report.notes


def test_pnmi_of_a_codebook_is_shown_where_some_runs_have_several(tmp_path: Path) -> None:
    """Because more joint codes have a higher PNMI: the mean over codebooks, and for a single one that of its codes."""
    write_run(tmp_path / "a", config(), rows(1.0), started="2026-01-01")
    write_run(tmp_path / "b", config(dropout=0.1), rows(1.0), started="2026-01-02")
    write_evaluation(tmp_path / "a", 0.6, 0.1, 0.9, codebooks=(0.3, 0.5))
    write_evaluation(tmp_path / "b", 0.6, 0.1, 0.45, codebooks=())
    cells = render_cells(report_of(tmp_path))
    first = cells.columns.index("PNMI %")
    assert cells.columns[first : first + 4] == ["PNMI %", "difference", "PNMI a codebook %", "difference"]
    assert [row[first] for row in cells.rows] == ["90.0", "45.0"]
    assert [row[first + 2] for row in cells.rows] == ["40.0", "45.0"]


@pytest.mark.parametrize("codebooks", [(), (0.3, 0.5)])
def test_pnmi_of_a_codebook_is_not_shown_where_all_have_as_many(tmp_path: Path, codebooks: tuple[float, ...]) -> None:
    for name in "ab":
        write_run(tmp_path / name, config(dropout=0.1 if name == "b" else 0.0), rows(1.0))
        write_evaluation(tmp_path / name, 0.6, 0.1, 0.9, codebooks=codebooks)
    assert "PNMI a codebook %" not in render_cells(report_of(tmp_path)).columns


def test_any_logged_metric(tmp_path: Path) -> None:
    report = report_of(two_by_two(tmp_path), metrics=["train/loss/total", "val/loss/total"])
    assert [outcome.metric for outcome in report.outcomes] == ["train/loss/total", "val/loss/total"]
    with pytest.raises(ValueError, match=r"`metric` must be .* is val/accurate. Did you mean val/accuracy\?"):
        report_of(tmp_path, metrics=["val/accurate"])
    with pytest.raises(
        ValueError, match=r"is xyz. Logged metrics: train/loss/total, train/throughput/peak_memory_gib, val/"
    ):
        report_of(tmp_path, metrics=["xyz"])


def test_recognition_has_error_rates(tmp_path: Path) -> None:
    write_run(tmp_path, config(), [{"update": 1, "val/loss/total": 2.0, "val/wer": 0.5, "val/cer": 0.25}])
    assert render_cells(report_of(tmp_path)).columns[2:5] == ["val/loss/total", "WER %", "CER %"]


def test_unequal_runs_have_notes(tmp_path: Path) -> None:
    two_by_two(tmp_path)
    write_run(tmp_path / "r9", config(seed=2), rows(1.0, updates=80))
    notes = report_of(tmp_path).notes
    assert "The runs had different numbers of updates: 80, 200." in notes
    assert any("several runs with seed 2; they are not independent samples" in note for note in notes)


def test_a_row_averages_over_seeds_only(tmp_path: Path) -> None:
    """A sweep whose file was edited between its trials: equal parameters, but different options."""
    trials = []
    for number, (updates, rate, loss) in enumerate(((80, 0.01, 1.0), (80, 0.01, 2.0), (40, 0.1, 7.0))):
        options = config(seed=number + 1)
        options["trainer"] |= {"max_steps": updates, "default_root_dir": f"t{number}"}
        options["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": {"lr": rate}}
        write_run(tmp_path / f"t{number}", options, rows(loss, updates=updates))
        trials.append(trial(f"t{number}", {"part": "a", "seed_everything": number + 1}))
    report = report_of(write_sweep(tmp_path, "s", trials))
    named = {line.group.name: [run.name for run in line.group.runs] for line in report.lines}
    first, second = "a (max_steps 80, lr 0.01)", "a (max_steps 40, lr 0.1)"
    assert named == {first: ["t0", "t1"], second: ["t2"]}
    assert [line.means[0].mean for line in report.lines] == [1.5, 7.0]
    for name, apart in ((first, "max_steps 80, lr 0.01"), (second, "max_steps 40, lr 0.1")):
        note = f"{name}: not averaged with the others of these parameters, because it differs in: {apart}."
        assert note in report.notes
    json.dumps(report_as_plain_data(report))


def test_chosen_keys_average_over_seeds_only_too(tmp_path: Path) -> None:
    two_by_two(tmp_path)
    report = report_of(tmp_path, by=["model.quantizer"])
    assert [len(line.group.runs) for line in report.lines] == [2, 2]
    assert [line.group.name for line in report.lines] == [
        "GumbelQuantizer (dropout null)",
        "GumbelQuantizer (dropout 0.1)",
    ]


def test_an_option_that_an_earlier_version_did_not_have_does_not_split_a_row(tmp_path: Path) -> None:
    write_run(tmp_path / "a", config(seed=1), rows(1.0))
    write_run(tmp_path / "b", config(seed=2, new_option=None), rows(2.0))
    assert [len(line.group.runs) for line in report_of(tmp_path, by=["model.loss"]).lines] == [2]


def test_no_penalties_differ_from_the_default_ones(tmp_path: Path) -> None:
    write_run(tmp_path / "a", config(penalties=None), rows(1.0))
    write_run(tmp_path / "b", config(penalties={}), rows(2.0))
    report = report_of(tmp_path)
    assert report.grouping.keys == ["model.penalties"]
    assert report.objective_differences == "the penalties"


@pytest.mark.parametrize("metric", ["val/loss/contrastive", "train/loss/total", "train/accuracy"])
def test_losses_and_accuracies_depend_on_the_objective(metric: str, tmp_path: Path) -> None:
    for number, quantizer in enumerate(("GumbelQuantizer", "EMAQuantizer")):
        logged = [{"update": 1, metric: 2.0}, {"update": 2, "val/loss/total": 1.0, "val/wer": 0.5, metric: 2.0}]
        write_run(tmp_path / f"r{number}", config(quantizer), logged)
    report = report_of(tmp_path, metrics=[metric, "val/wer"])
    loss, errors = report.lines[1].differences
    assert loss is None
    assert errors is not None
    assert report.notes[0].startswith(f"{metric} is not comparable between these groups")


def test_published_rows_are_next_to_the_measured_ones(tmp_path: Path) -> None:
    file = tmp_path / "published.yaml"
    file.write_text(PUBLISHED)
    sweep = write_quantizer_sweep(tmp_path / "s", name="quantizers_small")
    cells = render_cells(report_of(sweep, published_file=file))
    assert cells.columns[-1] == "published"
    assert [row[-1] for row in cells.rows] == ["8.33", "–", "–", "9.5 ± 0.25"]  # noqa: RUF001
    assert "Published: word error rate in percent (Somebody 2020, Table 5)." in cells.notes
    other = write_quantizer_sweep(tmp_path / "t", name="another")
    assert render_cells(report_of(other, published_file=file)).columns[-1] == "peak GiB"
    assert render_cells(report_of(sweep, published_file=tmp_path / "none")).columns[-1] == "peak GiB"


def test_published_parameters_are_compared_as_plain_data(tmp_path: Path) -> None:
    file = tmp_path / "published.yaml"
    file.write_text(
        "s:\n  {source: a, outcome: b, rows: [{parameters: {config: [x.yaml], k: 2}, mean: 1.5, deviation: null}]}"
    )
    paper = load_published("s_small", file)
    assert paper is not None
    assert paper.text({"config": ["x.yaml"], "k": 2, "seed_everything": 3}) == "1.5"
    assert paper.text({"config": "x.yaml", "k": 2}) == paper.text({"config": ["x.yaml"]}) == ""
    file.write_text("s: {rows: []}")
    with pytest.raises(ValueError, match="must have source, outcome and rows of each sweep"):
        load_published("s", file)


def test_only_failed_trials(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, "s", [trial("a", {"p": 1}, "failed", "x"), trial("b", {"p": 2}, "waiting")])
    cells = render_cells(report_of(sweep))
    assert [row[:2] for row in cells.rows] == [["1", "0"], ["2", "0"]]
    assert cells.notes[-2:] == ["a: no result (failed: x).", "b: no result (waiting)."]


def test_terminal(tmp_path: Path) -> None:
    file = io.StringIO()
    print_table(render_cells(report_of(two_by_two(tmp_path))), Console(file=file, width=300))
    lines = file.getvalue().splitlines()
    assert lines[0].split()[:2] == ["dropout", "seeds"]
    assert "6.000 ± 1.414" in lines[2]
    assert lines[3].startswith("4 runs; mean ± standard deviation over seeds")


def test_markdown(tmp_path: Path) -> None:
    lines = render_markdown(render_cells(report_of(two_by_two(tmp_path)))).splitlines()
    assert lines[0].startswith("| dropout | seeds | val/loss/total | difference |")
    assert lines[1].startswith("| --- | ---: | ---: |")
    assert {line.count("|") for line in lines[:4]} == {13}


def test_latex(tmp_path: Path) -> None:
    text = render_latex(render_cells(report_of(two_by_two(tmp_path))))
    lines = text.splitlines()
    assert lines[1:4] == [r"\begin{tabular}{lrrrrrrrrrrr}", r"\toprule", lines[3]]
    assert r"val/accuracy \%" in lines[3]
    assert r"6.000 $\pm$ 1.414 & $+4.000$ [$-2.085$, $+10.085$]" in text
    assert all(line.count("&") == 11 for line in lines if line.endswith(r" \\"))


@pytest.mark.parametrize(
    ("text", "set_"),
    [
        ("mask_8 & 50 % #1 {x} $", r"mask\_8 \& 50 \% \#1 \{x\} \$"),
        ("a\\b ~ ^", r"a\textbackslash{}b \textasciitilde{} \textasciicircum{}"),
        ("-1.5 [-2, +3.25]", "$-1.5$ [$-2$, $+3.25$]"),
        ("run-1 1e-05 2026-01-02", "run-1 1e-05 2026-01-02"),
    ],
)
def test_latex_commands_are_escaped(text: str, set_: str) -> None:
    assert escape_latex(text) == set_


def test_csv_has_unrounded_numbers(tmp_path: Path) -> None:
    first, second = csv.DictReader(io.StringIO(render_csv(report_of(two_by_two(tmp_path)))))
    assert (first["model.dropout"], second["model.dropout"]) == ("–", "0.1")  # noqa: RUF001
    assert float(second["val/loss/total:mean"]) == 6
    assert float(second["val/loss/total:deviation"]) == pytest.approx(math.sqrt(2), rel=1e-15)
    assert float(second["val/loss/total:difference"]) == 4
    assert first["val/loss/total:low"] == ""
    assert float(second["audio_seconds"]) == 4000


def test_plain_data_has_every_run(tmp_path: Path) -> None:
    plain = json.loads(json.dumps(report_as_plain_data(report_of(two_by_two(tmp_path))), allow_nan=False))
    assert plain["baseline"] == plain["groups"][0]["name"]
    assert [run["val/loss/total"] for group in plain["groups"] for run in group["runs"]] == [1, 3, 5, 7]
    assert plain["groups"][1]["outcomes"]["val/loss/total"]["number"] == 2


def test_runs_without_an_accuracy_are_in_the_same_table(tmp_path: Path) -> None:
    """A regression on a teacher has neither accuracy nor codes: its cells are empty, not 0."""
    taught = {"class_path": "w2vlab.modules.TeacherPrediction"}
    for seed in (1, 2):
        write_run(tmp_path / f"m{seed}", config(seed=seed), rows(1.0), started=f"2026-01-0{seed}")
        logged = [
            {name: value for name, value in row.items() if not name.startswith(("val/accuracy", "val/codebook"))}
            | ({"val/explained_variance": 0.4} if "val/loss/total" in row else {})
            for row in rows(5.0)
        ]
        options = config(seed=seed)
        options["model"] = options["model"] | taught
        write_run(tmp_path / f"t{seed}", options, logged, started=f"2026-01-0{seed + 2}")
    report = report_of(tmp_path)
    assert [outcome.label for outcome in report.outcomes] == [
        *("val/loss/total", "val/accuracy %", "variance explained %", "code perplexity"),
    ]
    cells = render_cells(report)
    by_group = {row[0]: dict(zip(cells.columns, row, strict=True)) for row in cells.rows}
    masked, teacher = by_group["MaskedPrediction"], by_group["TeacherPrediction"]
    assert teacher["variance explained %"] == "40.0 ± 0.0"
    assert teacher["val/accuracy %"] == teacher["code perplexity"] == masked["variance explained %"] == "–"  # noqa: RUF001
    assert any("not comparable" in note for note in report.notes)
