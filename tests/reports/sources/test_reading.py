from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.reports.made_up import (
    config,
    rows,
    trial,
    write_evaluation,
    write_quantizer_sweep,
    write_run,
    write_sweep,
)
from w2vlab.reports import make_report, read_runs
from w2vlab.reports.repeating import repeat_command
from w2vlab.reports.sources.reading import find_single_run


def test_all_data_of_a_run_are_read(tmp_path: Path) -> None:
    write_run(tmp_path / "a", config(seed=3), rows(2.0), (0.6, 0.1, 0.4))
    (run,) = read_runs([str(tmp_path)]).runs
    assert (run.name, run.seed, run.finished) == ("a", 3, True)
    assert [row["update"] for row in run.validation] == [40, 80, 120, 160, 200]
    assert len(run.train) == 20
    assert run.value("val/loss/total") == 2.0
    assert (run.cost.seconds, run.cost.audio_seconds, run.cost.updates) == (100.0, 4000.0, 200)
    assert run.cost.peak_memory_gib == 1.5
    joint, of_codebook = 0.4, 0.8
    assert run.evaluation == {
        "evaluation/probe": 0.6,
        "evaluation/abx_within": 0.1,
        "evaluation/pnmi": joint,
        "evaluation/pnmi_codebook": of_codebook,
    }


def test_cost_is_that_of_the_report_if_it_exists(tmp_path: Path) -> None:
    folder = write_run(tmp_path, config(), rows(2.0))
    cost = {"seconds": 1.0, "audio_seconds": 2.0, "updates": 3, "peak_memory_gib": None, "of_tomorrow": 1}
    (folder / "report.json").write_text(json.dumps({"cost": cost}))
    (run,) = read_runs([str(tmp_path)]).runs
    assert (run.cost.seconds, run.cost.audio_seconds, run.cost.updates, run.cost.peak_memory_gib) == (1.0, 2.0, 3, None)


def test_a_run_of_an_earlier_version_has_a_report_alone(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config()))
    content = {"train": [{"update": 5, "train/loss/total": 3.0}], "validation": [{"update": 5, "val/loss/total": 2.5}]}
    (tmp_path / "report.json").write_text(json.dumps(content))
    (run,) = read_runs([str(tmp_path)]).runs
    assert (run.value("val/loss/total"), run.value("train/loss/total"), run.finished) == (2.5, 3.0, None)
    assert (run.cost.updates, run.cost.seconds) == (5, None)


def test_rows_after_a_checkpoint_are_replaced_by_later_ones(tmp_path: Path) -> None:
    logged = [
        {"update": 1, "train/loss/total": 9.0},
        {"update": 2, "train/loss/total": 8.0},
        {"update": 2, "val/loss/total": 7.0},
        {"update": 3, "train/loss/total": 6.0},
        {"update": 2, "train/loss/total": 80.0},
        {"update": 2, "val/loss/total": None},
        {"update": 4, "train/loss/total": 5.0},
    ]
    write_run(tmp_path, config(), logged)
    (run,) = read_runs([str(tmp_path)]).runs
    assert [(row["update"], row["train/loss/total"]) for row in run.train] == [(1, 9.0), (2, 80.0), (4, 5.0)]
    assert len(run.validation) == 1
    assert math.isnan(run.validation[0]["val/loss/total"])


def test_the_evaluation_of_the_last_checkpoint_counts(tmp_path: Path) -> None:
    folder = write_run(tmp_path, config(), rows(2.0), (0.6, 0.1, 0.4))
    write_evaluation(folder, 0.9, 0.1, 0.4, name="update-40")
    assert read_runs([str(tmp_path)]).runs[0].evaluation["evaluation/probe"] == 0.6


def test_the_folder_of_a_validation_is_not_a_run(tmp_path: Path) -> None:
    write_run(tmp_path / "a", config(), rows(2.0))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.yaml").write_text("a: 1")
    assert [run.name for run in read_runs([str(tmp_path)]).runs] == ["a"]


def test_a_run_given_twice_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a", config(), rows(2.0))
    assert len(read_runs([str(tmp_path), str(tmp_path / "a")]).runs) == 1


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("config.yaml", "a: [1", "config.yaml cannot be read"),
        ("config.yaml", "- 1", "config.yaml has no options"),
        ("report.json", '{"cost": 1}', "is damaged"),
        ("run.json", '{"status": ', "run.json cannot be read"),
        ("run.json", "[]", "run.json is not a JSON object"),
        ("metrics.jsonl", '{"update": 1, "val/loss/total": 2.0}\n{"upda', "metrics.jsonl: 1 of 2 lines are damaged"),
        ("evaluation/last/evaluation.json", '{"table": 3}', "evaluation.json is not an evaluation"),
    ],
)
def test_damaged_files_are_listed_and_counted(name: str, content: str, problem: str, tmp_path: Path) -> None:
    write_run(tmp_path / "good", config(), rows(2.0))
    bad = write_run(tmp_path / "bad", config(seed=2), rows(2.0), (0.6, 0.1, 0.4))
    (bad / name).write_text(content)
    report = make_report(read_runs([str(tmp_path)]))
    assert "Files that could not be read completely: 1." in report.notes
    assert any(problem in note for note in report.notes)
    lost = name == "config.yaml" or name == "report.json"
    assert report.num_runs == (1 if lost else 2)


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"There are no runs in .*Searched for folders with config.yaml and metrics.jsonl"
    ):
        read_runs([str(tmp_path)])
    with pytest.raises(ValueError, match=r"`RUN` must be a folder, or wandb:.*, but is nowhere, which does not exist"):
        read_runs(["nowhere"])


def test_a_sweep_lists_trials_without_a_result(tmp_path: Path) -> None:
    write_quantizer_sweep(tmp_path / "sweep")
    report = make_report(read_runs([str(tmp_path)]))
    assert [(line.group.name, len(line.group.runs)) for line in report.lines] == [
        *(("gumbelquantizer", 3), ("kmeansquantizer", 3), ("identityquantizer", 3), ("emaquantizer", 2)),
    ]
    assert "011-EMAQuantizer-2: no result (failed: RunError: out of memory)." in report.notes


@pytest.mark.parametrize("state", ["waiting", "running", "stopped early", "failed"])
def test_an_unfinished_trial_is_not_averaged(state: str, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / f"t{seed}" / "w2vlab" / "x", config(seed=seed), rows(float(seed)))
    trials = [trial("t1", {"p": 1, "seed_everything": 1}), trial("t2", {"p": 2, "seed_everything": 2}, state)]
    trials[1]["value"] = 2.5
    report = make_report(read_runs([str(write_sweep(tmp_path, "s", trials))]))
    assert [len(line.group.runs) for line in report.lines] == [1, 0]
    assert f"t2: no result ({state}, at 2.5)." in report.notes


def test_a_finished_trial_without_a_run_is_listed(tmp_path: Path) -> None:
    write_run(tmp_path / "t1", config(), rows(2.0))
    sweep = write_sweep(tmp_path, "s", [trial("t1", {"p": 1}), trial("t2", {"p": 2})])
    assert any(
        note.startswith("t2: no result (finished, but has no readable run")
        for note in make_report(read_runs([str(sweep)])).notes
    )


def test_a_resumed_trial_is_its_last_run(tmp_path: Path) -> None:
    write_run(tmp_path / "t1" / "w2vlab" / "b", config(), rows(9.0, updates=40), started="2026-01-01T00:00:00+00:00")
    write_run(tmp_path / "t1" / "w2vlab" / "a", config(), rows(2.0), started="2026-01-01T01:00:00+00:00")
    (run,) = read_runs([str(write_sweep(tmp_path, "s", [trial("t1", {"p": 1})]))]).runs
    assert run.value("val/loss/total") == 2.0


@pytest.mark.parametrize("content", ["{", '{"trials": [{"name": "x"}]}', '{"trials": 3}'])
def test_a_damaged_sweep(content: str, tmp_path: Path) -> None:
    write_run(tmp_path / "t1", config(), rows(2.0))
    (tmp_path / "sweep.json").write_text(content)
    if "name" in content:
        with pytest.raises(
            ValueError,
            match=r"no runs in .*sweep.json is damaged in its trial 1 \(it must be a mapping with `parameters`",
        ):
            read_runs([str(tmp_path)])
    else:
        found = read_runs([str(tmp_path)])
        assert [run.name for run in found.runs] == ["t1"]
        assert any("sweep.json has no trials" in problem for problem in found.problems)


def test_parts_of_a_run_count_once(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", config(), rows(3.0, updates=40), status="stopped")
    longer = config()
    longer["trainer"]["max_steps"] = 400
    again = {"command": ["w2vlab"], "folder": str(tmp_path), "checkpoint": "a/checkpoints/last.ckpt", "started": "2027"}
    write_run(tmp_path / "b", longer, rows(2.0), continued=[again])
    report = make_report(read_runs([str(tmp_path)]))
    assert [run.name for line in report.lines for run in line.group.runs] == ["b"]
    assert "Runs that another run has resumed are part of that run: a." in report.notes
    write_run(first, config("EMAQuantizer"), rows(3.0))  # other options than b, so that both are separate runs
    assert make_report(read_runs([str(tmp_path)])).num_runs == 2


def test_unfinished_runs_are_skipped_unless_there_are_no_others(tmp_path: Path) -> None:
    write_run(tmp_path / "a", config(), rows(3.0, updates=40), status="running")
    report = make_report(read_runs([str(tmp_path)]))
    assert (report.num_runs, report.notes[0]) == (1, "None of the runs is finished: a (running, or killed, update 40).")
    write_run(tmp_path / "b", config(seed=2), rows(2.0))
    report = make_report(read_runs([str(tmp_path)]))
    assert report.num_runs == 1
    assert "Unfinished, and not in the table: a (running, or killed, update 40)." in report.notes


def test_the_command_that_repeats_a_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "it's" / "a", config(), rows(2.0))
    assert repeat_command(find_single_run(str(tmp_path))).splitlines() == [
        "# git commit abc, with uncommitted changes",
        "# w2vlab 0.1.0",
        f"cd '{tmp_path}/it'\"'\"'s' && WANDB_MODE=offline w2vlab fit '--config=configs/a b.yaml' "
        "'--trainer.default_root_dir=runs/repeats/it'\"'\"'s-a'",
    ]
    later: dict[str, Any] = {"command": ["w2vlab", "fit", "--x=1", "--ckpt_path=y"], "folder": "/b", "git": None}
    write_run(folder, config(), rows(2.0), continued=[later])
    code, _, command = repeat_command(folder).splitlines()
    assert code == "# the code was not in a git repository"
    assert command.startswith("cd /b && WANDB_MODE=offline w2vlab fit --x=1 ")


@pytest.mark.parametrize("option", [["--trainer.default_root_dir=s/t1"], ["--trainer.default_root_dir", "s/t1"]])
def test_a_trial_is_repeated_outside_of_its_sweep(option: list[str], tmp_path: Path) -> None:
    """Otherwise the sweep would use the repetition as its trial; W&B is offline, as in the environment of the trial."""
    command = ["w2vlab", "fit", *option, "--model.quantizer=x"]
    run = write_run(tmp_path / "s" / "t1" / "w2vlab" / "id", config(), rows(2.0), command=command)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "folder": str(tmp_path)}))
    write_sweep(tmp_path / "s", "s", [trial("t1", {"p": 1})])
    line = repeat_command(find_single_run(str(tmp_path / "s"))).splitlines()[-1]
    start = f"cd {tmp_path} && WANDB_MODE=offline w2vlab fit --model.quantizer=x --trainer.default_root_dir="
    assert line == f"{start}runs/repeats/s-t1"
    (tmp_path / "runs" / "repeats" / "s-t1").mkdir(parents=True)
    assert repeat_command(run).splitlines()[-1] == f"{start}runs/repeats/s-t1-2"


@pytest.mark.parametrize("logs", ["--trainer.logger.save_dir", "--trainer.logger.init_args.save_dir"])
def test_a_repetition_logs_below_its_own_root_folder(logs: str, tmp_path: Path) -> None:
    words = [f"{logs}=here", "--trainer.logger=CSVLogger", logs, "there", "--checkpoint.dirpath=here", "--data.seed=2"]
    run = write_run(tmp_path / "a", config(), rows(2.0), command=["w2vlab", "fit", *words])
    line = repeat_command(run).splitlines()[-1]
    assert f"w2vlab fit --trainer.logger=CSVLogger --data.seed=2 {logs}=runs --trainer.default_root_dir=runs/" in line


@pytest.mark.parametrize(
    "record",
    [
        {"command": ["sh", "-c", "rm -r ."]},
        {"command": "w2vlab fit"},
        {"command": ["w2vlab", "fit", 3]},
        {"folder": ["x"]},
        {"git": "x"},
        {"continued": {"a": 1}},
        {"versions": [1]},
    ],
)
def test_invalid_commands_are_not_repeated(record: dict[str, Any], tmp_path: Path) -> None:
    path = write_run(tmp_path, config(), rows(2.0)) / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **record}))
    with pytest.raises(ValueError, match=r"run.json is damaged"):
        repeat_command(tmp_path)


def test_the_printed_shell_script_is_two_comments_and_a_command(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "a\nb",
        config(),
        rows(2.0),
        git={"commit": "x\nrm -r .", "changed": False},
        versions={"v": "\r\x1b[2J"},
    )
    lines = repeat_command(folder).split("\n")
    assert [line[:2] for line in lines[:2]] == ["# ", "# "]
    assert lines[2].startswith("cd ")
    assert "\x1b" not in lines[1]


def test_runs_that_cannot_be_repeated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`repeat` must be the folder of a run with run.json, but is .*\.$"):
        find_single_run(str(tmp_path))
    folder = write_run(tmp_path / "a", config(), rows(2.0))
    (folder / "run.json").unlink()
    with pytest.raises(ValueError, match=r"which is a run without run.json: its config.yaml has its options"):
        find_single_run(str(tmp_path))
    (folder / "run.json").write_text('{"command": []}')
    with pytest.raises(ValueError, match=r"run.json is damaged \(KeyError: 'continued'\)"):
        repeat_command(folder)
    for command in (["rm", "-rf", "x"], ["w2vlab", "fit", "--config=\x1b[8mhidden"], ["w2vlab", 1], []):
        later = {"command": command, "folder": "/b", "git": None}
        write_run(folder, config(), rows(2.0), continued=[later])
        with pytest.raises(ValueError, match=r"run.json is damaged \((ValueError|IndexError|TypeError|AttributeError)"):
            repeat_command(folder)
    write_run(folder, config(), rows(2.0))
    write_run(tmp_path / "b", config(), rows(2.0))
    with pytest.raises(ValueError, match=r"`repeat` must be one run, but .* has 2: .*a, .*b\."):
        find_single_run(str(tmp_path))


def test_an_evaluation_from_before_a_resume_is_skipped(tmp_path: Path) -> None:
    """The resumed run has replaced `last.ckpt`, unless it made no update."""
    run = write_run(tmp_path, config(), rows(2.0), (0.6, 0.1, 0.4), started="2026-01-01T00:00:00+00:00")
    evaluation, checkpoint = run / "evaluation" / "last" / "evaluation.json", run / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    start = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    for evaluated, written, outdated in ((-10, 10, True), (-10, -20, False), (20, 10, False)):
        os.utime(evaluation, (start + evaluated,) * 2)
        os.utime(checkpoint, (start + written,) * 2)
        found = read_runs([str(tmp_path)])
        assert (
            any("is older than the checkpoint of the resumed run" in problem for problem in found.problems) == outdated
        )
        assert bool(found.runs[0].evaluation) != outdated
