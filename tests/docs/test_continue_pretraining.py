"""The page on continued pretraining: its script runs, and its table of learning rates is what it says."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.cli.conftest import fit, tiny_config  # noqa: F401

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/train/continue_pretraining.md").read_text(encoding="utf-8")
RECIPE = yaml.safe_load((ROOT / "configs/continue_pretraining.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("picture", ROOT / "docs/pictures/continued_pretraining.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_and_the_table_are_those_of_three_runs(
    script: ModuleType,
    fit: Callable[..., int],  # noqa: F811
    tiny_config: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fit("--trainer.max_steps=1", "--seed_everything=5") == 0
    monkeypatch.setattr(script, "UPDATES", 4)
    monkeypatch.setattr(script, "MEAN_OF", 2)
    capsys.readouterr()
    script.main(["runs/w2vlab/version_0/checkpoints/last.ckpt", f"--config={tiny_config}"], Path("picture.png"))
    rows = re.findall(r"^\| (\d to \d) \| (\S+) \| (\S+) \| (\S+) \|$", capsys.readouterr().out, re.MULTILINE)
    assert [row[0] for row in rows] == ["1 to 2", "3 to 4"]
    assert all(row[1] != row[2] for row in rows)
    assert Path("picture.png").stat().st_size > 5_000


def test_the_learning_rates_grow_with_the_square_root_of_the_batch() -> None:
    """From 150 s to 20 min; the recipe is a row of the table."""
    rows = re.findall(r"^\| \**(\d+) (s|min)\** \| \**([\d.e-]+)\** \| \**(\d+)\** \|$", PAGE, re.MULTILINE)
    rates = {int(number) * (1 if unit == "s" else 60): (float(rate), int(count)) for number, unit, rate, count in rows}
    assert list(rates) == [150, 300, 600, 1200]
    for seconds, (rate, count) in rates.items():
        assert rate == pytest.approx(1.58e-4 * math.sqrt(seconds / 600), rel=0.01)
        assert seconds == 75 * count
    options, data = RECIPE["model"]["init_args"], RECIPE["data"]
    assert rates[round(data["batch_seconds"] * data["micro_batches"])][0] == options["optimizer"]["init_args"]["lr"]
    assert options["scheduler"]["init_args"]["total_updates"] == RECIPE["trainer"]["max_steps"]
