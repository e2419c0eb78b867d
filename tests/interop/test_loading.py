"""`w2vlab.load`: the model that was saved, held once, and imported only when it is used."""

from __future__ import annotations

import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import w2vlab
from tests.contracts.tiny import audio_batch
from tests.modules.finetuning.recognition import CONFIGS, fine_tune, pretrain
from w2vlab.formats import LazyWeights, Origin, PublishedModel
from w2vlab.interop import loading
from w2vlab.modules import CTCFineTuning, PretrainingModule
from w2vlab.modules.opening import without_initialization
from w2vlab.modules.sources import read_source
from w2vlab.utils.messages import W2VLabWarning

BATCH = audio_batch((400, 350))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loading")


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def pretrained(folder: Path, request: pytest.FixtureRequest) -> Path:
    path = folder / f"{request.param}.ckpt"
    pretrain(path, request.param)
    return path


@pytest.fixture(scope="module")
def finetuned(folder: Path, pretrained: Path) -> Path:
    path = folder / f"{pretrained.stem}-speller.ckpt"
    fine_tune(path, pretrained)
    return path


def test_a_pretrained_model(pretrained: Path) -> None:
    saved = PretrainingModule.load_from_checkpoint(pretrained).eval()
    model = w2vlab.load(pretrained)
    assert type(model) is type(saved)
    assert not any(part.training for part in model.modules())
    assert_close(model.state_dict(), saved.state_dict(), rtol=0, atol=0)
    assert_close(model.features(BATCH.waveform), saved.features(BATCH.waveform), rtol=0, atol=0)
    assert list(model.features(BATCH.waveform, layers=[0])) == [0]
    if saved.has_codes:
        assert torch.equal(model.codes(BATCH.waveform), saved.codes(BATCH.waveform))


def test_a_fine_tuned_model(finetuned: Path) -> None:
    saved = CTCFineTuning.load_from_checkpoint(finetuned).eval()
    model = w2vlab.load(str(finetuned))
    assert isinstance(model, CTCFineTuning)
    assert_close(model.features(BATCH.waveform), saved.features(BATCH.waveform), rtol=0, atol=0)
    assert_close(model(BATCH).log_probabilities, saved(BATCH).log_probabilities, rtol=0, atol=0)


def test_the_type_of_the_weights(pretrained: Path, finetuned: Path) -> None:
    for path in (pretrained, finetuned):
        model = w2vlab.load(path, device=torch.device("cpu"), dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert model.features(BATCH.waveform).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_a_type_that_weights_cannot_have_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"`dtype` must be a floating-point type, .*, but is torch"):
        w2vlab.load("model.ckpt", dtype=dtype)


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`source` must be .*but is .*absent\.ckpt"):
        w2vlab.load(tmp_path / "absent.ckpt")


def test_notes_of_a_file_are_warnings(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = read_source(pretrained)
    published.origin.notes = ["12 heads are assumed."]
    published.origin.training_notes = ["Masks were others."]  # of no interest here
    monkeypatch.setattr(loading, "read_source", lambda source, options: published)
    with pytest.warns(W2VLabWarning, match=r"\.ckpt: 12 heads are assumed\.$"):
        w2vlab.load(pretrained)


class Allocated(TorchDispatchMode):
    """Counts the bytes of all tensors that operations allocate and that are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (key := leaf.untyped_storage()._cdata) not in before:
                if key not in self.held:
                    weakref.finalize(leaf.untyped_storage(), self.held.pop, key, None)
                self.held[key] = leaf.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(self.held.values()))
        return result


def lazily(published: PublishedModel) -> PublishedModel:
    """The same model, whose tensors are read when they are accessed, as from a file that is not mapped."""
    kept = {name: tensor.clone() for name, tensor in published.weights.items()}
    weights = LazyWeights({name: (lambda name=name: kept[name].clone()) for name in kept})
    return PublishedModel(config=published.config, weights=weights, origin=Origin(format="test"))


def test_weights_are_held_once(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = lazily(read_source(pretrained))
    monkeypatch.setattr(loading, "read_source", lambda source, options: published)
    with Allocated() as allocated:
        model = w2vlab.load(pretrained)
    sizes = [tensor.nbytes for tensor in model.state_dict().values()]
    assert sum(sizes) <= allocated.peak
    # Beside the model: one tensor that is copied, buffers that are not saved, numbers.
    assert allocated.peak < sum(sizes) + 2 * max(sizes) + 4096
    assert allocated.peak < 1.9 * sum(sizes)
    with Allocated() as twice:  # the test can fail
        everything = dict(published.weights)
        w2vlab.load(pretrained)
    assert len(everything) == len(sizes)
    assert twice.peak >= 2 * sum(sizes)


def test_initialization_is_left_out_only_inside() -> None:
    with without_initialization():
        layer = torch.nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            layer.weight.fill_(3.0)
        torch.nn.init.kaiming_uniform_(layer.weight)
        layer.weight.data.normal_()
        assert torch.equal(layer.weight, torch.full((2, 2), 3.0))
    torch.nn.init.kaiming_uniform_(layer.weight)
    assert not torch.equal(layer.weight, torch.full((2, 2), 3.0))


def test_importing_the_package_imports_neither_pytorch_nor_the_command_line() -> None:
    lines = (
        "import sys, w2vlab",
        "assert 'load' in dir(w2vlab)",
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'lightning', 'numpy', 'lhotse'}))",
        "print(sorted(name for name in sys.modules if name.startswith('w2vlab')))",
    )
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]", "['w2vlab']"]


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match=r"module 'w2vlab' has no attribute 'lode'"):
        w2vlab.lode  # noqa: B018
    assert w2vlab.load is loading.load
