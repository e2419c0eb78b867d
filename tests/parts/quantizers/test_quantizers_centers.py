"""Frozen centers of a file."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.contracts.tiny import WIDTH, address, audio_batch, build_model
from tests.helpers.centers_file import tiny_centers
from w2vlab.modules import MaskedPrediction
from w2vlab.modules.checkpoints.plain import CONFIG
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.sources import read_source
from w2vlab.quantizers import CentersQuantizer
from w2vlab.types import RunError
from w2vlab.units.centers import read_centers
from w2vlab.utils.messages import W2VLabWarning


def test_the_nearest_center_is_chosen_and_the_gradient_copied() -> None:
    path = tiny_centers(5, 8)
    quantizer = CentersQuantizer(8, path, codebook_size=5)
    latents = torch.randn(2, 7, 8, requires_grad=True)
    output = quantizer(latents)
    vectors = read_centers(Path(path)).vectors
    for row in range(2):
        for frame in range(7):
            distances = [(latents[row, frame] - vector).square().sum().item() for vector in vectors]
            code = distances.index(min(distances))
            assert output.codes[row, frame].tolist() == [code]
            assert torch.equal(output.quantized[row, frame], vectors[code])
    weight = torch.randn(2, 7, 8)
    (output.quantized * weight).sum().backward()
    assert latents.grad is not None
    assert torch.equal(latents.grad, weight)
    assert not list(quantizer.parameters())


@pytest.mark.parametrize(
    ("path", "size", "message"),
    [
        ("nowhere.safetensors", 5, "`centers` must be an existing file, but is nowhere.safetensors"),
        (tiny_centers(5, 8), 6, "`codebook_size` must be the number of centers in .*, 5, but is 6"),
        (
            tiny_centers(5, 7),
            5,
            r"`centers` must have the width of the latents \(8\), but those in .* have 7",
        ),
    ],
    ids=["missing", "another number", "another width"],
)
def test_a_file_that_does_not_fit_is_an_error_in_training_and_a_warning_in_a_control(
    path: str, size: int, message: str
) -> None:
    quantizer = CentersQuantizer(8, path, codebook_size=size)
    with pytest.raises(RunError, match=message):
        quantizer(torch.randn(1, 3, 8))
    with pytest.warns(W2VLabWarning, match=f"Codes are those of random centers: {message}"):
        quantizer.eval()(torch.randn(1, 3, 8))
    with pytest.raises(RunError, match=message):  # after the validation that precedes a training
        quantizer.train()(torch.randn(1, 3, 8))


def test_the_centers_of_a_checkpoint_need_no_file(tmp_path: Path) -> None:
    file = tmp_path / "centers.safetensors"
    file.write_bytes(Path(tiny_centers(5, WIDTH)).read_bytes())
    torch.manual_seed(0)
    model = build_model(
        MaskedPrediction, quantizer=partial(CentersQuantizer, centers=str(file), codebook_size=5)
    ).eval()
    torch.save({"state_dict": model.state_dict(), CONFIG: model.run_config}, tmp_path / "model.ckpt")
    for content in (None, Path(tiny_centers(9, 3)).read_bytes()):  # gone, or another clustering by now
        file.unlink() if content is None else file.write_bytes(content)
        opened = build_model_of(read_source(tmp_path / "model.ckpt"), "model.ckpt")
        batch = audio_batch((400,))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            codes = opened.eval().codes(batch.waveform, batch.num_samples)
        assert torch.equal(codes, model.codes(batch.waveform, batch.num_samples))
        opened.train()(batch, address(1))
        resumed = build_model(MaskedPrediction, quantizer=partial(CentersQuantizer, centers=str(file), codebook_size=5))
        resumed.load_state_dict(model.state_dict())
        resumed.train()(batch, address(1))


def test_a_codebook_has_at_least_two_entries() -> None:
    with pytest.raises(ValueError, match="`codebook_size` must be at least 2, but is 1"):
        CentersQuantizer(8, codebook_size=1)
