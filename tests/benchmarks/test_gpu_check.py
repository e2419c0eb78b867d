"""The GPU check, rehearsed on a CPU: every part runs, and its results have what the tables need."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from benchmarks.gpu import check, parts, report, sustained
from tests.processes import forked

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The results and what was printed; the parts are forked, which saves their imports."""
    path = tmp_path_factory.mktemp("results") / "gpu.json"
    printed = io.StringIO()
    forking = SimpleNamespace(**{**vars(subprocess), "Popen": forked.Popen})
    with mock.patch.object(check, "subprocess", forking), contextlib.redirect_stdout(printed):
        status = check.main(["--rehearse", "--minutes=16", f"--out={path}"])
    assert status == 0, path.with_suffix(".log").read_text()
    return json.loads(path.read_text()), printed.getvalue()


def test_the_script_runs_from_any_folder(tmp_path: Path) -> None:
    command = [str(ROOT / "scripts/gpu_check.sh"), "--rehearse", "--parts", "machine", "--out=gpu.json"]
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": ""}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"gpu.json", "gpu.log"}
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"]["machine"]["status"] == "done"
    assert "| machine | done |" in ended.stdout


def results_of(rehearsal: tuple[dict[str, Any], str], part: str) -> dict[str, Any]:
    return rehearsal[0]["parts"][part]["result"]


def test_every_part_is_done_within_its_limit(rehearsal: tuple[dict[str, Any], str]) -> None:
    found = rehearsal[0]
    assert found["rehearsal"]
    assert [part.name for part in check.PARTS] == list(found["parts"]) == [*parts.PARTS]
    for part in found["parts"].values():
        assert part["status"] == "done"
        assert 0 < part["seconds"] <= part["limit"] + 1
    assert found["seconds"] >= sum(part["seconds"] for part in found["parts"].values()) - 1  # they are rounded


def test_the_machine_is_measured(rehearsal: tuple[dict[str, Any], str]) -> None:
    found = results_of(rehearsal, "machine")
    assert found["matrix_flops_per_second"] > 1e9
    assert found["copy_bytes_per_second"] > 1e8
    assert found["versions"]["torch"]


def test_steps_are_measured_in_both_sizes(rehearsal: tuple[dict[str, Any], str]) -> None:
    for config in ("base", "large"):
        sizes = results_of(rehearsal, config)
        assert list(sizes) == ["as shipped", "312 s"]
        compiled = ["w2vlab compiled"] if config == "base" else []
        for found in sizes.values():
            assert list(found["runs"]) == ["w2vlab", "transformers", *compiled]
            assert all(run["audio_seconds_per_second"] > 0 for run in found["runs"].values())


def test_a_step_is_profiled_and_compiled_once(rehearsal: tuple[dict[str, Any], str]) -> None:
    sizes = results_of(rehearsal, "base")
    for found in sizes.values():
        assert set(found["ratios"]) == {"w2vlab compiled / w2vlab", "w2vlab compiled / transformers"}
        for profile in found["profile"].values():
            milliseconds, backward = profile["milliseconds"], profile["backward_milliseconds"]
            assert all(value > 0 for value in milliseconds.values())
            assert all(backward[row] <= value for row, value in milliseconds.items())
            assert backward["encoder"] > 0
            assert backward["optimizer"] == 0
            assert profile["milliseconds_of_update"] > 0
    assert sizes["as shipped"]["compilation"]["graphs"] > 0
    assert sizes["as shipped"]["compilation"]["graphs_for_other_lengths"] == 0


def test_the_recipe_is_trained_from_files(rehearsal: tuple[dict[str, Any], str]) -> None:
    found = results_of(rehearsal, "shipped")
    assert found["complete"]
    assert found["updates"] > 0
    assert found["seconds"] >= 1
    assert found["audio_seconds_per_second"] == pytest.approx(found["audio_seconds"] / found["seconds"])
    assert 0 <= found["share_of_waiting"] < 1
    assert found["throughput"]["data_wait_share"] >= 0
    fused = results_of(rehearsal, "fused")
    assert fused["options"] == [f"--data.fuse_seconds={sustained.TINY_FUSE_SECONDS}"] if sustained.can_fuse() else fused


def test_strategies_compute_what_one_process_does(rehearsal: tuple[dict[str, Any], str]) -> None:
    found = results_of(rehearsal, "strategies")
    assert list(found) == ["one process", "DDP (gloo)", "ShardedStrategy"]
    alone = found["one process"]["losses"]
    assert len(set(alone)) == len(alone) == 6
    for other in found.values():
        assert other["losses"] == pytest.approx(alone, rel=1e-5)
    assert [other["num_sharded"] > 0 for other in found.values()] == [False, False, True]


def test_attention_is_timed_by_each_kernel(rehearsal: tuple[dict[str, Any], str]) -> None:
    found = results_of(rehearsal, "kernels")
    assert list(found) == [
        "tiny, dropout 0.1",
        "tiny, dropout 0.1, padding",
        "tiny, dropout 0",
        "tiny, dropout 0, padding",
    ]
    assert all(row["PyTorch's choice"] > 0 for row in found.values())


def test_tests_of_a_gpu_are_found(rehearsal: tuple[dict[str, Any], str]) -> None:
    found = results_of(rehearsal, "tests")
    assert found["failed"] == 0
    assert found["passed"] + found["skipped"] > 20


def test_the_report_has_every_table(rehearsal: tuple[dict[str, Any], str]) -> None:
    results, printed = rehearsal
    assert printed.strip() == report.render(results)
    for beginning in (
        "| best of all sizes |",
        "| BASE |",
        "| LARGE |",
        "| `w2vlab fit` |",
        "| BASE: ms, of them backward |",
        "| strategy, one device |",
        "| attention, ms of both passes |",
        "| part |",
    ):
        assert f"\n{beginning}" in printed
    widths = {line.count("|") for line in printed.split("\n\n")[-1].splitlines()}
    assert len(widths) == 1


def fake_part(folder: Path, body: str) -> list[str]:
    """A command that takes the arguments of `benchmarks.gpu.parts`."""
    path = folder / "part.py"
    path.write_text(f"import os, pathlib, sys, time\nresult = pathlib.Path(sys.argv[2].partition('=')[2])\n{body}\n")
    return [sys.executable, "-S", str(path)]


def run_fake(folder: Path, body: str, limit: float) -> dict[str, Any]:
    results = check.Results(folder / "gpu.json", {"started": time.time(), "parts": {}})
    check.run_part(fake_part(folder, body), "fake", limit, results, folder)
    assert json.loads((folder / "gpu.json").read_text()) == results.content
    return results.content["parts"]["fake"]


def test_a_part_that_hangs_is_ended_with_its_processes_and_keeps_what_it_had(tmp_path: Path) -> None:
    body = (
        "import signal, subprocess\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "result.write_text('{\"first\": 1}')\n"
        "child = subprocess.Popen(['sleep', '600'])\npathlib.Path(result.parent / 'child').write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    found = run_fake(tmp_path, body, limit=2.0)
    assert (found["status"], found["result"]) == ("cut", {"first": 1})
    state = Path(f"/proc/{(tmp_path / 'child').read_text()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_part_that_fails_is_recorded_with_its_last_lines(tmp_path: Path) -> None:
    found = run_fake(tmp_path, "result.write_text('{\"first\": 1}')\nraise ValueError('no such thing')", limit=60.0)
    assert (found["status"], found["result"]) == ("failed", {"first": 1})
    assert found["error"].endswith("ValueError: no such thing")
    assert "ValueError" in (tmp_path / "gpu.log").read_text()


@pytest.mark.parametrize("minutes", [8.0, 4.0])
def test_time_that_a_part_leaves_is_added_to_the_next(minutes: float) -> None:
    assert sum(part.seconds for part in check.PARTS) == 60 * check.MINUTES
    remaining, limits = 60 * minutes, []
    for number, part in enumerate(check.PARTS):
        limits.append(check.limit_of(part, check.PARTS[number + 1 :], remaining, minutes))
        remaining -= limits[-1] / 2
    planned = [part.seconds * minutes / check.MINUTES for part in check.PARTS]
    assert limits[0] == pytest.approx(planned[0])
    assert limits[1:] == pytest.approx([own + before / 2 for own, before in zip(planned[1:], limits, strict=False)])
    # Nothing is kept for others from a part that alone does not fit.
    assert check.limit_of(check.PARTS[1], check.PARTS[2:], 10.0, minutes) == 10.0


def test_without_a_device_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    path = tmp_path / "gpu.json"
    assert check.main([f"--out={path}", "--minutes=16"]) == 1
    assert list(json.loads(path.read_text())["parts"]) == ["machine"]
    assert "There must be a CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes=0"], "`--minutes` must be above 0, but is 0.0."),
        (["--out=nowhere/gpu.json"], "`--out` must be in a folder that exists, but is nowhere/gpu.json."),
        (["--parts", "others"], "invalid choice: 'others'"),
    ],
)
def test_invalid_options_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        check.main(arguments)
    assert message in capsys.readouterr().err


def test_targets_are_compared_with_the_best() -> None:
    runs = {
        "w2vlab": {"audio_seconds_per_second": 5000, "seconds_per_update": 0.06},
        "transformers": {"audio_seconds_per_second": 1500, "seconds_per_update": 0.2},
        "w2vlab compiled": {"audio_seconds_per_second": 6700, "seconds_per_update": 0.05},
    }
    found = {
        "base": {"312 s": {"runs": runs}},
        "shipped": {"audio_seconds_per_second": 1700, "share_of_waiting": 0.001},
        "fused": {"audio_seconds_per_second": 5600, "share_of_waiting": 0.03},
    }
    assert list(report.measured(found).values()) == [6700, 5600, 0.03, pytest.approx(4)]
    table = "\n".join(report._targets(found))
    assert "| step of BASE, seconds of audio a second | 6700 | at least 6600 | yes |" in table
    assert "| share of waiting for data | 0.03 | at most 0.02 | no |" in table
    assert list(report.measured({}).values()) == [None] * 4


def test_the_greatest_limit_comes_first() -> None:
    throughput = {"mfu": 0.4, "limited_by_data": 0.01, "limited_by_host": 0.6, "limited_by_products": 0.39}
    assert report._limits(throughput) == "host 60%, products 39%, data 1%"
    assert report._limits({}) == "-"


def test_a_run_that_was_cut_has_a_report() -> None:
    found = {
        "machine": {"status": "done", "seconds": 9.0, "limit": 20.0, "result": {"device": "GPU", "versions": {}}},
        "base": {"status": "cut", "seconds": 90.0, "limit": 90.0},
        "large": {"status": "failed", "seconds": 2.0, "limit": 90.0, "error": "a | b\nc"},
    }
    found["machine"]["result"] |= {"driver": None, "cores": 4}  # type: ignore[index]
    text = report.render({"date": "2026-01-02", "rehearsal": False, "seconds": 101, "minutes": 8, "parts": found})
    assert "| base | cut | 90.0 | 90.0 | - |" in text
    assert "| large | failed | 2.0 | 90.0 | a / b c |" in text


def test_a_report_of_pytest_is_counted() -> None:
    xml = (
        '<testsuites><testsuite><testcase name="a"/><testcase name="b"><failure/></testcase><testcase name="c">'
        '<skipped/></testcase><testcase name="d"><error/></testcase></testsuite></testsuites>'
    )
    assert parts.count_tests(xml) == {"passed": 1, "failed": 2, "skipped": 1, "names_of_failed": ["b", "d"]}


def test_a_corpus_has_lengths_and_levels_of_speech(tmp_path: Path) -> None:
    lengths = sustained.lengths_like_librispeech(36_000, np.random.default_rng(0))
    assert 12.1 < np.mean(lengths) < 12.7
    assert 1.5 <= min(lengths) < 2.5
    assert 16 < max(lengths) <= 17
    audio = sustained.speech_like(48_000, np.random.default_rng(0))
    assert 0.02 < math.sqrt(float(np.mean(audio**2))) < 0.1
    assert np.abs(audio).max() < 1
    count = sustained.write_corpus(tmp_path, 30, 3, 4.0)
    files = sorted(tmp_path.rglob("*.flac"))
    assert len(files) == count
    assert len({path.stat().st_ino for path in files}) == count // 3
