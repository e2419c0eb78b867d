"""Positions in the attention are swapped by a flag or a file, like any other part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from w2vlab.cli.main import main
from w2vlab.modules import PretrainingModule
from w2vlab.positions import RelativeKeyPositions

PART = "--model.context.attention_positions"


def test_a_flag_swaps_them_and_the_checkpoint_has_them(fit: Callable[..., int], tmp_path: Path) -> None:
    flags = f"{PART}=RelativeKeyPositions", f"{PART}.left=5", "--model.context.position_layers=0"
    assert fit(*flags, "--trainer.max_steps=1") == 0
    (path,) = tmp_path.rglob("last.ckpt")
    context = PretrainingModule.load_from_checkpoint(path).context
    positions = [layer.attention.positions for layer in context.layers]
    assert [type(part) for part in positions] == [RelativeKeyPositions] * len(context.layers)
    assert all(len(part.embeddings) == 5 + 1 + 8 for part in positions)
    assert context.positions is None


def test_the_full_configuration_has_them(fit: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(f"{PART}=RotaryPositions", f"{PART}.base=500", "--print_config") == 0
    context = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["context"]["init_args"]
    assert context["attention_positions"] == {
        "class_path": "w2vlab.positions.RotaryPositions",
        "init_args": {"base": 500.0, "before_projection": False},
    }


def test_a_misspelt_name_and_a_width_are_explained(fit: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(f"{PART}=RotaryPosition") == 2
    assert (
        "Unknown positions 'RotaryPosition'. Known: RelativeKeyPositions, RelativePositions, RotaryPositions. Did you "
        "mean RotaryPositions?"
    ) in capsys.readouterr().err
    assert fit(f"{PART}={{class_path: RotaryPositions, init_args: {{num_heads: 3}}}}") == 2
    message = f"`{PART.removeprefix('--')}.num_heads` must not be given: it follows from the neighbouring parts."
    assert message in capsys.readouterr().err


def test_the_family_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parts", "positions"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("RotaryPositions", "RelativePositions", "RelativeKeyPositions"))
    assert "arXiv:2104.09864" in printed
