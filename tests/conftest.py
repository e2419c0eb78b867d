"""Settings of all tests, and of the processes that they start."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scheduling import pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: F401

# Tiny tensors gain nothing from threads, and the threads of tests that run side by side fight over the cores: nor do
# those of notebooks, commands, and both processes of a pair. PyTorch is not imported here: the process that hands out
# tests to others does without.
os.environ["OMP_NUM_THREADS"] = "1"
# A command that starts again with another allocator would import PyTorch again; `test_allocator.py` has one that does.
os.environ["W2VLAB_ALLOCATOR"] = "default"

DRAWN = (
    *("callbacks.records.picture.draw_run", "callbacks.diagnosis.codebook_picture.draw_codebook_health"),
    *("callbacks.diagnosis.gradient_picture.draw_gradient_matrix", "reports.output.pictures.draw_curves"),
    *("reports.output.pictures.draw_outcomes", "reports.output.pictures.draw_perplexity"),
)

# Where a script starts the tests in the background they ignore an interrupt, and so would every process they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Says how many processes run the tests; a file or two are done before other processes have started."""
    if all(Path(argument.partition("::")[0]).is_file() for argument in config.args):
        return 0
    return min(4, os.cpu_count() or 1)  # more would import PyTorch more often than they gain


def pytest_collection_finish() -> None:
    """Has PyTorch keep to one thread, and the garbage collector not go through half a million objects of libraries."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_handler_left() -> Iterator[None]:
    """Fails a test whose command goes on to show messages after its end, on a stream that is closed by then."""
    before = list(logging.getLogger("w2vlab").handlers)
    yield
    assert logging.getLogger("w2vlab").handlers == before


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves pictures of runs and reports empty: to draw one takes longer than a tiny run."""
    from matplotlib.figure import Figure

    for name in DRAWN:
        monkeypatch.setattr(f"w2vlab.{name}", lambda *_: Figure())


@pytest.fixture
def one_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves pictures empty after the first of each kind."""
    from matplotlib.figure import Figure

    def once(draw: Callable[..., Figure]) -> Callable[..., Figure]:
        left = [draw]
        return lambda *shown: left.pop()(*shown) if left else Figure()

    for name in DRAWN:
        module, function = f"w2vlab.{name}".rsplit(".", 1)
        draw = getattr(importlib.import_module(module), function)
        monkeypatch.setattr(f"w2vlab.{name}", once(draw))
