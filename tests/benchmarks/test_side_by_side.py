"""The benchmarks at tiny sizes: they run, and their values and ratios are consistent."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from benchmarks import memory, peers, scaling, train_step
from benchmarks.separate import hubert as hubert_peers
from benchmarks.side_by_side import Measurement, machine, take_turns
from tests.configs.test_recipes import build, recipe
from tests.processes import forked
from w2vlab.cli.lightning.allocator import uses_large_heap_pages

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
        "--peer-allocator",
    ]
    figures = train_step.main(options)
    check(figures, "transformers", rounds=1)
    assert figures["precision"] == "bf16-mixed"


def test_both_competitors_compute_in_the_same_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours by the trainer, the peer by autocast; the other checkout is asked for it, too."""
    seen: list[list[str]] = []

    def turns(commands: dict, *_: object) -> dict[str, Measurement]:
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
    [
        (None, (("0", True), ("0", False))),
        ("--small-pages", (("0", False), ("0", False))),
        ("--peer-large-pages", (("0", True), ("1", False))),
        ("--peer-allocator", (("0", True), ("0", True))),
    ],
)
def test_large_pages_do_not_depend_on_the_environment(
    option: str | None, expected: tuple[tuple[str, bool], tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def turns(commands: dict, environments: dict, *_: object) -> dict[str, Measurement]:
        seen.update(environments)
        return dict.fromkeys(commands, Measurement([1.0], 1.0))

    monkeypatch.setattr(train_step, "take_turns", turns)
    train_step.main(["--model=tiny-vq", *([] if option is None else [option])])
    for name, (pages, settings) in zip(("w2vlab", "reference"), expected, strict=True):
        assert seen[name]["THP_MEM_ALLOC_ENABLE"] == pages
        assert uses_large_heap_pages(seen[name]) == settings


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


def test_a_peer_in_another_environment_is_run_by_its_python(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def turns(
        commands: dict, environments: dict, warmup: int, rounds: int, interpreters: dict[str, str]
    ) -> dict[str, Measurement]:
        seen.update(commands=commands, interpreters=interpreters)
        return dict.fromkeys(commands, Measurement([1.0], 1.0))

    monkeypatch.setattr(train_step, "take_turns", turns)
    figures = train_step.main(["--model=hubert", "--peer=spidr", "--python=other/python", "--seconds=3"])
    assert list(figures["seconds"]) == ["w2vlab", "spidr"]
    assert seen["interpreters"] == {"spidr": "other/python"}
    assert seen["commands"]["spidr"][:3] == ["-m", "benchmarks.separate.hubert", "spidr"]
    assert "--seconds=3.0" in seen["commands"]["spidr"]


def test_another_python_runs_a_competitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.side_by_side.subprocess", subprocess)  # a forked process has only this Python
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nwhile read -r line; do echo answer 7; test $line = step || exit 0; done\n")
    python.chmod(0o755)
    assert take_turns({"other": []}, {}, 1, 2, {"other": str(python)})["other"].seconds == [7, 7]


class _Peer(nn.Module):
    """Called as the models of `minimal-hubert` and `spidr` are."""

    def __init__(self, num_classes: int = 500) -> None:
        super().__init__()
        self.encoder = nn.Linear(320, num_classes)
        self.teacher = nn.Linear(2, 2)
        self.updates: list[int] = []

    def forward(
        self,
        waveforms: Tensor,
        labels: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        mask_indices: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        scores = self.encoder(waveforms.unfold(1, 320, 320)[:, : (waveforms.shape[1] - 400) // 320 + 1])
        if mask_indices is None:
            assert mask is not None
            assert labels is not None
            return nn.functional.cross_entropy(scores[mask], labels[mask], reduction="none"), {}
        rows = torch.arange(len(scores))[:, None]
        return scores[rows, mask_indices].square().sum(-1).flatten(), {}

    def update_ema(self, step: int) -> None:
        self.updates.append(step)


@pytest.mark.parametrize("peer", hubert_peers.PEERS)
def test_a_step_of_a_peer_trains_it(peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _Peer()
    monkeypatch.setitem(sys.modules, "minimal_hubert", SimpleNamespace(HuBERTPretrain=lambda classes: model))
    for name in ("spidr", "spidr.models", "spidr.models.spidr"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(SpidR=lambda: model))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step = hubert_peers.step_of(peer, 2, 1.0, "32-true")
    step()
    step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"encoder.weight", "encoder.bias"}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.updates == ([1, 2] if peer == "spidr" else [])


def test_the_mask_of_the_peers_is_that_of_hubert() -> None:
    hidden = hubert_peers.hidden_frames(3, 499)
    assert 0.5 < hidden.shape[1] / 499 < 0.6  # spans overlap: 1 - exp(-0.8) = 0.55
    assert all(len(set(row)) == len(row) and row == sorted(row) and row[-1] < 499 for row in hidden.tolist())


def test_ours_is_the_published_hubert() -> None:
    model = peers.build_hubert(peers.LAYOUTS["base"], hubert_peers.NUM_CLASSES)
    sizes = sum(parameter.numel() for parameter in model.parameters())
    # BASE's 94.60 million parameters are with 104 classes, of which each has 256 numbers.
    assert sizes / 1e6 == pytest.approx(94.60 + (500 - 104) * 256 / 1e6, abs=0.01)


def test_a_step_of_hubert_compared_with_a_checkout(tmp_path: Path) -> None:
    for name in ("w2vlab", "benchmarks"):
        (tmp_path / name).symlink_to(Path(train_step.__file__).parents[1] / name)
    options = [
        "--model=tiny-hubert",
        "--precision=bf16-mixed",
        "--processor-time",
        "--seconds=1",
        "--rounds=1",
        f"--before={tmp_path}",
    ]
    check(train_step.main(options), "before", 1)


def test_ours_is_the_published_spidr() -> None:
    """With the parameters, the teacher and the codebooks of its recipe."""
    with torch.device("meta"):
        model = peers.build_kind("spidr", peers.LAYOUTS["base"])
    expected = build(recipe("spidr_base")["model"])
    for one in (model, expected):
        one.teacher.schedule = replace(one.teacher.schedule, frozen_from=None)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in expected.state_dict().items()
    }
    assert model.teacher.schedule == expected.teacher.schedule
    assert (model.loss.layers, model.loss.feedforward) == (expected.loss.layers, True)


def test_a_step_of_spidr_compared_with_a_checkout(tmp_path: Path) -> None:
    for name in ("w2vlab", "benchmarks"):
        (tmp_path / name).symlink_to(Path(train_step.__file__).parents[1] / name)
    options = ["--model=tiny-spidr", "--processor-time", "--seconds=1", "--rounds=1", f"--before={tmp_path}"]
    check(train_step.main(options), "before", 1)
