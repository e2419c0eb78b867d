"""GradientFlow in a run: its files and metrics, and that it does not change the run."""

from __future__ import annotations

import gc
import json
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from torch.testing import assert_close

from tests.callbacks.diagnosis.gradient_flow_worker import train, train_share
from tests.contracts.tiny import build_model, factory
from tests.ddp.processes import in_two_processes
from tests.modules.training import (
    MODELS,
    NoiselessGumbel,
    constant_rate,
    fit,
    make_batches,
    make_model,
    parameters_of,
    plain_sgd,
)
from w2vlab.callbacks import GradientFlow
from w2vlab.callbacks.diagnosis.gradient_matrix import trained_parts
from w2vlab.losses import DiversityPenalty, FeaturePenalty
from w2vlab.modules import MaskedPrediction, PretrainingModule
from w2vlab.quantizers import GumbelQuantizer
from w2vlab.strategies import ShardedStrategy

PENALTIES = {"diversity": partial(DiversityPenalty, weight=1.0), "feature": FeaturePenalty}

every_model = pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)


class Lines(Logger):
    """Keeps the logged metrics."""

    name, version = "lines", 0

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.rows: list[tuple[int, dict[str, float]]] = []

    @property
    def save_dir(self) -> str:
        return str(self.root)

    def log_hyperparams(self, params: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows.append((step, dict(metrics)))

    def measurements(self) -> dict[int, dict[str, float]]:
        return {step: row for step, row in self.rows if any(name.startswith("gradient_flow/") for name in row)}


def noisy_model(cls: type[PretrainingModule], penalties: dict[str, Any] = PENALTIES) -> PretrainingModule:
    torch.manual_seed(0)
    return build_model(
        cls,
        feature_dropout=0.2,
        quantizer=factory(GumbelQuantizer),
        penalties=penalties,
        optimizer=plain_sgd,
        scheduler=constant_rate,
    )


@pytest.mark.usefixtures("one_drawing")
@pytest.mark.parametrize("accumulate", [1, 2])
@every_model
def test_a_run_is_bit_for_bit_the_same(cls: type[PretrainingModule], accumulate: int, tmp_path: Path) -> None:
    batches = make_batches(3, accumulate, 3)
    plain, watched = noisy_model(cls), noisy_model(cls)
    expected = fit(plain, batches, 3, accumulate)
    record = fit(watched, batches, 3, accumulate, callbacks=[GradientFlow(every=1)], default_root_dir=tmp_path)
    assert record.losses == expected.losses
    assert record.metrics == expected.metrics
    after = parameters_of(plain)
    assert all(torch.equal(parameter, after[name]) for name, parameter in parameters_of(watched).items())


@pytest.mark.usefixtures("one_drawing")
def test_it_measures_once_at_each_update_that_is_due(tmp_path: Path) -> None:
    flow, lines = GradientFlow(every=2), Lines(tmp_path)
    fit(noisy_model(MaskedPrediction), make_batches(5, 2, 2), 5, 2, callbacks=[flow], logger=lines)
    measurements = lines.measurements()
    assert list(measurements) == [0, 2, 4]
    assert len([step for step, row in lines.rows if "gradient_flow/total/encoder/norm" in row]) == 3
    last = measurements[4]
    for term in flow.matrix.terms:
        for part in flow.matrix.parts:
            assert last[f"gradient_flow/{term}/{part}/norm"] == flow.matrix.norm(term, part)
    assert last["gradient_flow/diversity/scores/cosine"] == flow.matrix.cosine("diversity", "scores")
    assert "gradient_flow/diversity/codebook/cosine" not in last
    assert last["gradient_flow/diversity/codebook/norm"] == 0
    folder = tmp_path / "lines" / "version_0"
    content = json.loads((folder / "gradient_flow.json").read_text())
    assert content == {"update": 4, **flow.matrix.as_dict()}
    assert (folder / "gradient_flow.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("no_drawing")
def test_it_measures_again_in_another_run(tmp_path: Path) -> None:
    flow = GradientFlow()
    for _ in range(2):
        flow.matrix = None
        fit(noisy_model(MaskedPrediction), make_batches(1, 1, 2), 1, callbacks=[flow], default_root_dir=tmp_path)
        assert flow.matrix is not None


@pytest.mark.usefixtures("no_drawing")
@every_model
def test_total_is_the_gradient_of_the_update(cls: type[PretrainingModule], tmp_path: Path) -> None:
    """One update of plain SGD at a rate of 0.05."""
    model, flow = make_model(cls, NoiselessGumbel, diversity=True), GradientFlow()
    before = parameters_of(model.double())
    fit(model, make_batches(1, 1, 3), 1, callbacks=[flow], default_root_dir=tmp_path, precision="64-true")
    names = {parameter: name for name, parameter in model.named_parameters()}
    for part, total in zip(flow.matrix.parts, flow.matrix.total, strict=True):
        moved = [parameter.detach() - before[names[parameter]] for parameter in trained_parts(model)[part]]
        # The module divides by the number of predictions in float32.
        assert_close(torch.cat([delta.flatten() for delta in moved]).norm() / 0.05, total, rtol=1e-6, atol=1e-12)


@pytest.mark.usefixtures("no_drawing")
def test_accumulation_shows_the_first_micro_batch(tmp_path: Path) -> None:
    """Without the diversity penalty, which depends on the global batch."""
    batches = make_batches(1, 2, 3)
    flows = GradientFlow(), GradientFlow()
    for flow, accumulate in zip(flows, (2, 1), strict=True):
        model = noisy_model(MaskedPrediction, {"feature": PENALTIES["feature"]})
        fit(model, batches[:accumulate], 1, accumulate, callbacks=[flow], default_root_dir=tmp_path)
    assert flows[0].matrix.as_dict() == flows[1].matrix.as_dict()


class GraphsLeft(Callback):
    """Counts training contexts that are alive after their batch."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref[torch.Tensor]] = []
        self.left: list[int] = []

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        self.seen.append(weakref.ref(pl_module.step.output.context))

    def on_train_batch_start(self, *_: Any) -> None:
        gc.collect()
        self.left.append(sum(reference() is not None for reference in self.seen))


@pytest.mark.usefixtures("no_drawing")
def test_no_graph_outlives_its_batch(tmp_path: Path) -> None:
    graphs = GraphsLeft()
    callbacks = [graphs, GradientFlow(every=1)]
    fit(noisy_model(MaskedPrediction), make_batches(4, 1, 2), 4, callbacks=callbacks, default_root_dir=tmp_path)
    assert graphs.left == [0, 0, 0, 0]
    assert len(graphs.seen) == 4


def test_a_fast_dev_run_writes_no_files(tmp_path: Path) -> None:
    flow = GradientFlow()
    fit(
        *(noisy_model(MaskedPrediction), make_batches(1, 1, 2), 1),
        callbacks=[flow],
        default_root_dir=tmp_path,
        fast_dev_run=1,
    )
    assert flow.matrix is not None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("every", [0, -5])
def test_every_must_be_positive(every: int) -> None:
    with pytest.raises(ValueError, match=f"`every` must be at least 1, but is {every}."):
        GradientFlow(every=every)


def test_a_sharded_model_is_refused() -> None:
    trainer: Any = SimpleNamespace(strategy=ShardedStrategy())
    with pytest.raises(ValueError, match=r"`trainer.strategy` must keep all weights .*, but is ShardedStrategy"):
        GradientFlow().setup(trainer, noisy_model(MaskedPrediction), "fit")


def test_two_processes_equal_one_with_the_global_batch(tmp_path: Path) -> None:
    first, second = in_two_processes(train_share, tmp_path)
    alone = train(tmp_path / "alone")
    assert first["matrix"] == second["matrix"]
    for kind in ("norms", "cosines"):
        for term, row in alone["matrix"][kind].items():
            found = first["matrix"][kind][term]
            assert [part for part in row if row[part] is None] == [part for part in found if found[part] is None]
            numbers = {part: value for part, value in row.items() if value is not None}
            assert {part: found[part] for part in numbers} == pytest.approx(numbers, rel=1e-8, abs=1e-12)
    assert first["matrix"]["total"] == pytest.approx(alone["matrix"]["total"], rel=1e-8)
    for name, parameter in alone["parameters"].items():
        assert_close(first["parameters"][name], parameter, rtol=1e-8, atol=1e-11)
    assert (tmp_path / "rank-0" / "gradient_flow.png").is_file()
    assert not (tmp_path / "rank-1").exists()
