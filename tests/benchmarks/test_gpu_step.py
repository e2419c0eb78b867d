"""The GPU benchmark at tiny size on the CPU: its results are consistent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import gpu_measures, gpu_step
from benchmarks.gpu.gpu_contenders import ours, varied
from benchmarks.peers import LAYOUTS, audio, build_ours
from w2vlab.types import SAMPLE_RATE

TINY = ["--tiny", "--device", "cpu", "--precision", "fp32"]


@pytest.fixture(scope="module")
def without_peer() -> dict[str, Any]:
    return gpu_step.main(TINY)


def assert_consistent(result: dict[str, Any]) -> None:
    settings = result["settings"]
    frames = settings["batch"] * 49  # of a second, in the published encoder
    for name, run in result["runs"].items():
        seconds = run["seconds_per_update"]
        fastest, slowest = run["fastest_and_slowest_round"]
        assert 0 < fastest <= seconds <= slowest
        assert run["updates_per_second"] == pytest.approx(1 / seconds)
        assert run["audio_seconds_per_second"] == pytest.approx(settings["batch"] * settings["seconds"] / seconds)
        assert run["targets_per_second"] == pytest.approx(run["targets_per_update"] / seconds)
        assert 0.2 * frames < run["targets_per_update"] < 0.8 * frames
        assert run["peak_bytes"] is None
        if name == "transformers":
            assert run["share_of_matrix_rate"] is None
        else:
            assert run["model_flops_per_second"] == pytest.approx(result["flops_per_update"] / seconds)
            assert 0 < run["share_of_matrix_rate"] < 1
            share = run["model_flops_per_second"] / result["matrix_flops_per_second"]
            assert run["share_of_matrix_rate"] == pytest.approx(share)
    for found in result["ratios"].values():
        assert 0 < found["least"] <= found["ratio"] * (1 + 1e-9)
        assert found["least"] <= found["most"]


def test_without_a_peer(without_peer: dict[str, Any]) -> None:
    assert_consistent(without_peer)
    assert list(without_peer["runs"]) == ["w2vlab"]
    assert without_peer["ratios"] == {}
    assert without_peer["skipped"] == {
        **dict.fromkeys(("peak_bytes", "waits", "calls"), "needs CUDA, and this runs on a CPU"),
        "compilation": "needs --compile",
    }


def test_a_missing_measurement_has_a_reason(without_peer: dict[str, Any]) -> None:
    text = gpu_step.render(without_peer)
    for name, reason in without_peer["skipped"].items():
        assert f"* {name}: not measured, {reason}" in text
    assert "| w2vlab | " in text


def test_compiled_and_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    path = tmp_path / "figures.json"
    result = gpu_step.main([*TINY, "--compile", "--peer", "transformers", f"--json={path}"])
    assert_consistent(result)
    assert list(result["runs"]) == ["w2vlab", "transformers", "w2vlab compiled"]
    assert set(result["ratios"]) == {"w2vlab compiled / w2vlab", "w2vlab compiled / transformers"}
    assert result["compilation"]["graphs"] > 0
    assert result["compilation"]["graphs_for_other_lengths"] == 0
    assert result["compilation"]["graphs_of_dynamo_for_other_lengths"] == 0
    assert json.loads(path.read_text()) == result
    assert "transformers" in result["versions"]
    assert capsys.readouterr().out == gpu_step.render(result) + "\n"


def test_results_are_kept_when_it_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_step, "_compilation", end)
    path = tmp_path / "figures.json"
    with pytest.raises(KeyboardInterrupt):
        gpu_step.main([*TINY, "--compile", f"--json={path}"])
    assert_consistent(json.loads(path.read_text()))


def test_targets_are_the_masked_frames() -> None:
    batch = audio(2, 1.0)
    model = build_ours(LAYOUTS["tiny"])
    predicted: list[int] = []
    model.loss.register_forward_pre_hook(lambda module, inputs: predicted.append(sum(inputs[0].num_targets)))
    step = ours(model, [batch], torch.float32)
    assert [step() for _ in range(3)] == predicted
    assert all(0.2 * 98 < number < 0.8 * 98 for number in predicted)


def test_varied_batches_have_other_lengths_with_and_without_padding() -> None:
    batches = varied(audio(5, 1.0), 10)
    assert len({(len(batch), batch.num_samples) for batch in batches}) == 10
    assert [min(batch.num_samples) < batch.waveform.shape[1] for batch in batches] == [False, True] * 5
    for batch in batches:
        assert max(batch.num_samples) == batch.waveform.shape[1] <= SAMPLE_RATE
        assert all((batch.waveform[row, length:] == 0).all() for row, length in enumerate(batch.num_samples))


def test_contenders_run_alternately() -> None:
    order: list[str] = []
    steps = {name: (lambda name=name: order.append(name)) for name in "ab"}
    seconds = gpu_measures.in_turns(steps, 3, 2, torch.device("cpu"))
    assert "".join(order) == "aabb" * 3
    assert [len(values) for values in seconds.values()] == [3, 3]


def test_the_matrix_rate_counts_a_multiply_add_as_two_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_measures, "seconds_each", lambda step, times, device: 0.5)
    assert gpu_measures.matrix_rate(10, torch.float32, torch.device("cpu")) == 2 * 10**3 / 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--updates=0"], "`--updates` must be above 0, but is 0."), (["--config=huge"], "invalid choice: 'huge'")],
)
def test_invalid_options_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_step.main([*TINY, *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_step.main(["--tiny", "--device=cuda"])
    assert "`--device` must be cpu if there is no CUDA device, but is cuda." in capsys.readouterr().err
