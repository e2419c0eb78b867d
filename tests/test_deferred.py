"""Packages whose code waits: what is asked of them has the answer that they would give."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from w2vlab import deferred

BEGIN = "from w2vlab.deferred import defer_unused_packages, is_waiting\ndefer_unused_packages()\n"


def in_new_process(code: str) -> str:
    """Runs `code` where nothing is imported yet; returns what it printed."""
    run = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


METRICS = """
import sys
from torchmetrics.collections import MetricCollection  # a file of it, before the package
import torchmetrics
assert is_waiting("torchmetrics") and is_waiting("torchmetrics.utilities.plot")
assert torchmetrics.MetricCollection is MetricCollection
assert torchmetrics.__version__ == torchmetrics.__about__.__version__
assert not hasattr(torchmetrics, "__warningregistry__")
assert is_waiting("torchmetrics") and "matplotlib" not in sys.modules and "torchmetrics.functional" not in sys.modules

import torch
from torchmetrics import Metric, MeanMetric  # the second is not known beforehand
assert not is_waiting("torchmetrics") and issubclass(MeanMetric, Metric) and Metric is torchmetrics.metric.Metric
assert torchmetrics.functional.accuracy and sys.modules["torchmetrics"] is torchmetrics
mean = MeanMetric()
mean.update(torch.tensor([1.0, 3.0]))
assert mean.compute() == 2
import matplotlib.figure
figure, axes = mean.plot()
assert isinstance(figure, matplotlib.figure.Figure)
assert not hasattr(torchmetrics, "no_such_name")
"""


def test_metrics_are_all_there_when_one_is_asked_for() -> None:
    in_new_process(METRICS)


COMPILER = """
import copy, sys
import torch
import torch._dynamo

@torch.compiler.disable
def doubled(x):
    return 2 * x.relu()

layer = torch.nn.Linear(3, 3)
alike = copy.deepcopy(layer)
optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
layer(torch.ones(2, 3)).sum().backward()
optimizer.step()
optimizer.zero_grad()
assert not torch.equal(layer.weight, alike.weight)
OptimizedModule = torch._dynamo.OptimizedModule
assert not isinstance(layer, OptimizedModule)
assert doubled(torch.ones(1)) == 2 and doubled.__name__ == "doubled"
assert is_waiting("torch._dynamo") and "torch._dynamo.config" not in sys.modules

x = torch.ones(3, requires_grad=True)
assert torch.equal(torch.autograd.grad(2 * x, x, torch.arange(3.0))[0], torch.tensor([0.0, 2.0, 4.0]))
try:
    torch.autograd.grad(2 * x, x, torch.ones(2))
except RuntimeError as problem:
    assert "Mismatch in shape" in str(problem)
else:
    raise AssertionError("a gradient of another shape was taken")
assert is_waiting("torch.fx.experimental.symbolic_shapes") and "sympy" not in sys.modules

graphs = []

def backend(graph, inputs):
    graphs.append([str(node.target) for node in graph.graph.nodes if node.op in ("call_function", "call_method")])
    return graph.forward

def compute(x):
    return doubled(x.sin()).cos()

x = torch.linspace(-1, 1, 5)
assert torch.equal(torch.compile(compute, backend=backend)(x), compute(x))
assert not is_waiting("torch._dynamo") and torch._dynamo is sys.modules["torch._dynamo"]
assert graphs == [["sin"], ["cos"]], graphs  # what is not to be compiled stands between two graphs

compiled = torch.compile(layer, backend="eager")
assert isinstance(compiled, OptimizedModule) and isinstance(compiled, torch._dynamo.OptimizedModule)
assert not isinstance(layer, OptimizedModule)

def train():
    compiled(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()

before = layer.weight.clone()
torch.compile(train, backend="eager")()  # with an optimiser that was used before there was a compiler
assert not torch.equal(layer.weight, before)
"""


def test_a_run_compiles_as_ever_once_something_is_compiled() -> None:
    in_new_process(COMPILER)


EXPORT = """
import torch
assert is_waiting("torch.export")
from torch.export.graph_signature import ExportGraphSignature
assert not is_waiting("torch.export") and torch.export.ExportGraphSignature is ExportGraphSignature
layer = torch.nn.Linear(3, 2)
x = torch.ones(1, 3)
assert torch.allclose(torch.export.export(layer, (x,)).module()(x), layer(x))
"""


def test_a_model_is_exported_as_ever() -> None:
    in_new_process(EXPORT)


SUBMODULE = """
import sys
import torch._dynamo.config as config  # a file of the compiler, before it
import torch._dynamo
assert not is_waiting("torch._dynamo")
assert config is torch._dynamo.config is sys.modules["torch._dynamo.config"] is torch._dynamo.exc.config
assert config.__spec__.loader is not None and config.__spec__.origin == config.__file__
config.cache_size_limit
"""


def test_a_file_of_the_compiler_brings_the_compiler() -> None:
    in_new_process(SUBMODULE)


LAUNCHER = """
import sys
from wandb.sdk.launch.inputs.internal import StagedLaunchInputs
from wandb.sdk.launch.sweeps.utils import create_sweep_command
assert is_waiting("wandb.sdk.launch") and "wandb.apis.public" not in sys.modules
from wandb.sdk.launch import launch_add
assert not is_waiting("wandb.sdk.launch") and callable(launch_add) and callable(create_sweep_command)
assert sys.modules["wandb.sdk.launch.inputs.internal"].StagedLaunchInputs is StagedLaunchInputs
"""


def test_the_launcher_of_jobs_is_there_when_it_is_asked_for() -> None:
    in_new_process(LAUNCHER)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a package whose code waits; `answer` is known of it."""
    name = "waiting_package"
    (tmp_path / name).mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(deferred._ANSWERS, name, {"answer": lambda: 42})
    finders = list(sys.meta_path)
    deferred.defer_unused_packages()
    yield tmp_path / name / "__init__.py"
    sys.meta_path[:] = finders
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def test_code_is_executed_when_it_is_asked_for_a_name_that_is_not_known(package: Path) -> None:
    package.write_text("executed = []\nexecuted.append(__name__)\nanswer = 41\n")
    module = importlib.import_module("waiting_package")
    assert module.answer == 42
    assert deferred.is_waiting("waiting_package")
    assert module.executed == ["waiting_package"]
    assert module.answer == 41
    assert not deferred.is_waiting("waiting_package")
    assert importlib.import_module("waiting_package") is module


def test_code_that_fails_fails_again(package: Path) -> None:
    package.write_text("value = 1\nraise OSError('undefined symbol')\n")
    module = importlib.import_module("waiting_package")
    for _ in range(2):
        with pytest.raises(OSError, match="undefined symbol"):
            module.other  # noqa: B018
    assert deferred.is_waiting("waiting_package")


def test_packages_are_deferred_once(package: Path) -> None:
    before = list(sys.meta_path)
    deferred.defer_unused_packages()
    assert sys.meta_path == before
