"""Each example trains, its checkpoint opens, and it has at most 60 lines."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from w2vlab.modules import PretrainingModule

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))
RATE = 16_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    draw = np.random.default_rng(0)
    for number in range(16):
        soundfile.write(folder / f"{number}.wav", 0.1 * draw.standard_normal(round(2.5 * RATE)), RATE)
    return folder


def test_every_published_objective_has_an_example() -> None:
    assert EXAMPLES == ["best_rq", "vq_wav2vec_gumbel", "vq_wav2vec_kmeans", "wav2vec", "wav2vec2"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_trains_and_its_checkpoint_opens(
    name: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "cache"))
    path = FOLDER / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    torch.manual_seed(0)
    untrained = example.build(3).state_dict()
    torch.manual_seed(0)
    checkpoint = example.main(updates=3, corpus=str(corpus), folder=str(tmp_path))

    trained = PretrainingModule.load_from_checkpoint(checkpoint)
    assert type(trained) is type(example.build(3))
    # Trained weights differ from the initial ones, so the checkpoint was loaded, and not a new model.
    weights = [key for key, parameter in trained.named_parameters() if parameter.requires_grad]
    assert all(not torch.equal(trained.state_dict()[key], untrained[key]) for key in weights if "norm" not in key)
