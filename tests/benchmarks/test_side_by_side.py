"""The benchmarks at tiny sizes: they run, and their values and ratios are consistent."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from benchmarks import memory, peers, scaling, train_step
from benchmarks.side_by_side import Measurement, machine, take_turns
from tests.processes import forked

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")


@pytest.fixture(autouse=True)
def _forked_competitors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.side_by_side.subprocess", forked)


def check(figures: dict, peer: str, rounds: int) -> None:
    ours, theirs = figures["seconds"]["w2vlab"], figures["seconds"][peer]
    assert len(ours) == len(theirs) == rounds
    assert min(ours) > 0 < min(theirs)
    assert figures["speed_ratio"] == pytest.approx(statistics.median(theirs) / statistics.median(ours))
    assert figures["memory_ratio"] == pytest.approx(figures["peak_gib"]["w2vlab"] / figures["peak_gib"][peer])
    assert figures["torch"] == machine()["torch"]


def test_a_step_compared_with_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    options = ["--model=tiny-vq", "--seconds=0.5", "--rounds=2", "--warmup=1", f"--json={file}"]
    figures = train_step.main(options)
    check(figures, "reference", rounds=2)
    assert json.loads(file.read_text()) == figures
    assert "times as fast" in capsys.readouterr().out


def test_a_step_compared_with_transformers() -> None:
    pytest.importorskip("transformers", reason="the peer is not a dependency")
    options = [
        "--model=tiny",
        "--seconds=1",
        "--rounds=1",
        "--warmup=1",
        "--precision=bf16-mixed",
        "--peer-kept-memory",
    ]
    figures = train_step.main(options)
    check(figures, "transformers", rounds=1)
    assert figures["precision"] == "bf16-mixed"


def test_both_competitors_compute_in_the_same_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours by the trainer, the peer by autocast; the other checkout is asked for it, too."""
    seen: list[list[str]] = []

    def turns(commands: dict, environments: dict, warmup: int, rounds: int) -> dict[str, Measurement]:
        seen.extend(commands.values())
        return dict.fromkeys(commands, Measurement([1.0], 1.0))

    monkeypatch.setattr(train_step, "take_turns", turns)
    train_step.main(["--model=tiny", "--precision=bf16-mixed"])
    train_step.main(["--model=tiny", "--precision=bf16-mixed", "--before=."])
    assert len(seen) == 4
    assert all("--precision=bf16-mixed" in command for command in seen)

    model, types = torch.nn.Linear(2, 2), []

    def forward(values: Tensor) -> SimpleNamespace:
        output = model(values)
        types.append(output.dtype)
        return SimpleNamespace(loss=output.float().sum())

    inputs = {"values": torch.ones(1, 2), "mask_time_indices": torch.ones(1)}
    for half in (False, True):
        optimizer = torch.optim.SGD(model.parameters())
        peers.transformers_step(lambda values, mask_time_indices: forward(values), optimizer, inputs, half)()
    assert types == [torch.float32, torch.bfloat16]


def test_the_reference_of_vq_has_no_bfloat16(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_step.main(["--model=tiny-vq", "--precision=bf16-mixed"])
    assert "must be 32-true" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "expected"),
    [(None, ("1", "0")), ("--small-pages", ("0", "0")), ("--peer-large-pages", ("1", "1"))],
)
def test_large_pages_do_not_depend_on_the_environment(
    option: str | None, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def turns(commands: dict, environments: dict, warmup: int, rounds: int) -> dict[str, Measurement]:
        seen.update(environments)
        return dict.fromkeys(commands, Measurement([1.0], 1.0))

    monkeypatch.setattr(train_step, "take_turns", turns)
    train_step.main(["--model=tiny-vq", *([] if option is None else [option])])
    assert tuple(seen[name]["THP_MEM_ALLOC_ENABLE"] for name in ("w2vlab", "reference")) == expected


def test_a_step_compared_with_another_checkout(tmp_path: Path) -> None:
    """The other checkout is this one, in a folder of links."""
    for name in ("w2vlab", "benchmarks"):
        (tmp_path / name).symlink_to(Path(train_step.__file__).parents[1] / name)
    check(train_step.main(["--model=tiny-vq", "--seconds=0.5", "--rounds=2", f"--before={tmp_path}"]), "before", 2)


def test_a_peer_that_a_model_does_not_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_step.main(["--model=tiny-vq", "--peer=transformers"])
    assert "cannot be transformers" in capsys.readouterr().err


@linux
@pytest.mark.parametrize("case", memory.CASES)
def test_ours_and_the_peer_compute_the_same_function(case: str) -> None:
    """Otherwise the comparison would be meaningless; apart from noise, which both draw."""
    for materialised in (False, True):
        watched = memory._Watched(memory.CASES[case]("tiny", materialised))
        watched()
        assert watched.grown >= 0


@linux
def test_memory_is_that_of_the_step() -> None:
    command = "from benchmarks import memory as m; import torch; from benchmarks.side_by_side import answer; "
    command += "w = m._Watched(lambda: torch.ones({} * 2**18).sum()); answer(w, lambda: w.grown)"
    measured = take_turns({str(mib): ["-c", command.format(mib)] for mib in (100, 300)}, {}, 0, 2)
    small, large = (1024 * value.peak_gib for value in measured.values())
    assert 90 < small < 150
    assert 290 < large < 350


def test_scaling(capsys: pytest.CaptureFixture[str]) -> None:
    figures = scaling.main(["--tiny", "--rounds=1"])
    assert list(figures["negatives K of the loss"]) == [50, 100, 200, 400]
    assert all(seconds > 0 for seconds in figures["seconds of one utterance"].values())
    assert "time for the same work" in capsys.readouterr().out


def test_a_competitor_that_dies_ends_the_benchmark() -> None:
    with pytest.raises(RuntimeError, match="ended with status 3"):
        take_turns({"one": ["-c", "raise SystemExit(3)"]}, {}, 0, 1)
