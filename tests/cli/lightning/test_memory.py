"""Settings of memory allocation."""

from __future__ import annotations

import os
import sys

import pytest

from tests.processes import forked
from w2vlab.cli.lightning.memory import keep_freed_memory

linux = pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted on Linux")

_FAULTS = """
import resource, sys
import torch
from w2vlab.cli.lightning.memory import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


first, second = faults(), faults()
print(kept, first > 1000, second > 1000)
"""


@linux
@pytest.mark.parametrize(("way", "expected"), [("return", "None True True"), ("keep", "True True False")])
def test_freed_memory_is_kept(way: str, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment = {**environment, "THP_MEM_ALLOC_ENABLE": "0", "OMP_NUM_THREADS": "1"}
    environment.pop("GLIBC_TUNABLES", None)
    found = forked.run([sys.executable, "-c", _FAULTS, way], env=environment, capture_output=True, text=True)
    assert found.stdout.split() == expected.split(), found.stderr


@pytest.mark.parametrize("variable", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_of_the_environment_stay(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("must not be changed"))
    assert not keep_freed_memory()


def test_another_system_or_library_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name == "GLIBC_TUNABLES" or name.startswith("MALLOC_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())  # without `mallopt`
    assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
