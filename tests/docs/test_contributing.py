"""The parts in CONTRIBUTING pass the contracts and their own tests."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from tests.processes import forked

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
QUANTIZER, QUANTIZER_TEST, MASKING, MASKING_TEST = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
IMPORTS = """import numpy as np
import torch
from block_masking import BlockMasking
from softmax_quantizer import SoftmaxQuantizer


"""
CONTRACTS = [f"tests/contracts/test_{name}.py" for name in ("every_part", "networks", "masking")]


def test_the_quantizer_and_the_masking_pass_the_contracts(tmp_path: Path) -> None:
    """In a separate process, because a subclass stays registered."""
    (tmp_path / "softmax_quantizer.py").write_text(QUANTIZER, encoding="utf-8")
    (tmp_path / "block_masking.py").write_text(MASKING, encoding="utf-8")
    own = tmp_path / "test_new_parts.py"
    own.write_text(IMPORTS + QUANTIZER_TEST + MASKING_TEST, encoding="utf-8")
    plugins = ["-p", "no:cacheprovider", "-p", "softmax_quantizer", "-p", "block_masking"]
    chosen = ["-k", "SoftmaxQuantizer or BlockMasking or test_new_parts"]
    command = [sys.executable, "-m", "pytest", "-n0", "-v", *plugins, *chosen, *CONTRACTS, str(own)]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run = forked.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    passed = re.findall(r"::(\S+) PASSED", run.stdout)
    assert sum("SoftmaxQuantizer" in name for name in passed) >= 15
    assert sum("BlockMasking" in name for name in passed) >= 20
    own_tests = re.findall(r"^def (test_\w+)", QUANTIZER_TEST + MASKING_TEST, re.MULTILINE)
    assert len(own_tests) == 2
    assert set(own_tests) <= set(passed)


def test_every_path_exists() -> None:
    """From the root, below `w2vlab`, or below one of its packages; the files that the examples add do not exist."""
    added = {"w2vlab/quantizers/softmax.py", "w2vlab/masking/block.py"}
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*)`", TEXT)) - added
    assert len(named) > 40
    packages = [ROOT, ROOT / "w2vlab", *(path for path in (ROOT / "w2vlab").iterdir() if path.is_dir())]
    assert [path for path in sorted(named) if not any((package / path).exists() for package in packages)] == []
