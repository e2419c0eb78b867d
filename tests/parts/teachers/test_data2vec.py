"""data2vec: the network of transformers' model, and targets, loss and average of the paper in plain loops."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contracts.tiny import audio_batch
from tests.formats.transformers.peers import peer, saved
from w2vlab.cli.lightning.parsed import build_pretraining
from w2vlab.modules import TeacherPrediction
from w2vlab.modules.sources import read_source
from w2vlab.types import AudioBatch, Mask, RandomAddress

pytest.importorskip("transformers")

OPTIONS = {
    "num_hidden_layers": 4,
    "num_conv_pos_embeddings": 3,
    "conv_pos_kernel_size": 5,
    "feat_extract_norm": "layer",
}
LAYERS = 3
"""Of which targets are made, K."""

Array = np.ndarray


def pair(folder: Path, beta: float = 0.0) -> tuple[Any, TeacherPrediction]:
    """A model of transformers, and ours with its weights as student and teacher, both in float64."""
    theirs = peer("Data2VecAudioModel", **OPTIONS)
    source = saved(theirs, folder)
    options = deepcopy(read_source(source).config["init_args"])
    torch.manual_seed(1)
    ours = build_pretraining(
        {
            "class_path": "w2vlab.modules.TeacherPrediction",
            "init_args": {
                "encoder": options["encoder"],
                "context": options["context"],
                "teacher": {"class_path": "EMATeacher", "init_args": {"layers": LAYERS}},
                "loss": {"class_path": "RegressionLoss", "init_args": {"beta": beta}},
                "init_from": str(source),
            },
        }
    )
    assert isinstance(ours, TeacherPrediction)
    assert ours.warm_start is not None
    assert {part.part for part in ours.warm_start.parts if part.loaded} == {"encoder", "norm", "context"}
    # A warm start leaves it out, because the objective is another one.
    ours.mask_embedding.data.copy_(theirs.masked_spec_embed)
    return theirs.double(), ours.double().eval()


def drawn(ours: TeacherPrediction, rows: int = 2) -> tuple[AudioBatch, Mask]:
    """Two utterances of the same length, and some frames of each to mask."""
    batch = audio_batch((1000,) * rows)
    batch.waveform = batch.waveform.double()
    frames = ours.encoder.num_frames(1000)
    targets = torch.stack([torch.randperm(frames)[: frames // 2].sort().values for _ in range(rows)])
    hidden = torch.zeros(rows, frames, dtype=torch.bool).scatter_(1, targets, True)
    return batch, Mask(frames=hidden, targets=targets, num_targets=(frames // 2,) * rows)


def waveform_of(ours: TeacherPrediction, batch: AudioBatch) -> Tensor:
    """What transformers' model is given, which does not normalize waveforms itself."""
    if not ours.encoder.normalize_waveform:
        return batch.waveform
    mean, variance = batch.waveform.mean(1, keepdim=True), batch.waveform.var(1, correction=0, keepdim=True)
    return (batch.waveform - mean) / (variance + ours.encoder.waveform_eps).sqrt()


def feedforward_outputs(theirs: Any, waveform: Tensor, hidden: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Last hidden state of transformers' model, and what its feed-forward networks give, a layer each."""
    found: list[Tensor] = []
    hooks = [
        layer.feed_forward.register_forward_hook(lambda _, __, output: found.append(output.detach()))
        for layer in theirs.encoder.layers
    ]
    with torch.no_grad():
        output = theirs(waveform, mask_time_indices=hidden).last_hidden_state
    for hook in hooks:
        hook.remove()
    return output, found


def test_student_and_teacher_are_the_network_of_transformers(tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path / "theirs")
    batch, mask = drawn(ours)
    waveform = waveform_of(ours, batch)
    with torch.no_grad():
        encoding = ours.encode(batch)
        frames = ours.context.project(encoding.latents)
        every = range(1, 5)
        context, student = ours.context.forward_layers(
            mask.hide(frames, ours.mask_embedding), None, every, feedforward=True
        )
        _, teacher = ours.teacher.network.forward_layers(frames, None, every, feedforward=True)
    for hidden, outputs in ((mask.frames, student), (None, teacher)):
        last, found = feedforward_outputs(theirs, waveform, hidden)
        for number, expected in enumerate(found, 1):
            assert_close(outputs[number], expected, rtol=1e-9, atol=1e-11, msg=f"layer {number}")
        if hidden is not None:
            assert_close(context, last, rtol=1e-9, atol=1e-11)


def targets_by_loops(outputs: list[Array]) -> Array:
    """Section 3.3: the mean over the K highest layers of what each gives, each channel normalized over time."""
    rows, frames, width = outputs[0].shape
    targets = np.zeros((rows, frames, width))
    for row, channel in np.ndindex(rows, width):
        for output in outputs[-LAYERS:]:
            values = output[row, :, channel]
            deviation = np.sqrt(((values - values.mean()) ** 2).mean() + 1e-5)
            targets[row, :, channel] += (values - values.mean()) / deviation / LAYERS
    return targets


def loss_by_loops(predicted: Array, targets: Array, beta: float) -> float:
    """Section 3.4: the smooth L1 loss, or the squared error; summed over the width, and divided by its root."""
    total = 0.0
    for error in (predicted - targets).ravel():
        if beta == 0:
            total += error**2
        else:
            total += error**2 / (2 * beta) if abs(error) <= beta else abs(error) - beta / 2
    return total / np.sqrt(predicted.shape[-1])


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_targets_and_loss_are_those_of_the_paper(tmp_path: Path, beta: float) -> None:
    theirs, ours = pair(tmp_path / "theirs", beta)
    batch, mask = drawn(ours)
    waveform = waveform_of(ours, batch)
    output = ours(batch, RandomAddress(seed=1, update=0, ids=batch.ids), mask)
    every = targets_by_loops([found.numpy() for found in feedforward_outputs(theirs, waveform, None)[1]])
    rows = np.arange(len(every))[:, None]
    targets = every[rows, mask.targets.numpy()]
    assert_close(output.targets.quantized, torch.from_numpy(targets), rtol=1e-9, atol=1e-9)

    context = feedforward_outputs(theirs, waveform, mask.frames)[0].numpy()[rows, mask.targets.numpy()]
    weight, bias = (parameter.detach().numpy() for parameter in ours.loss.projection.parameters())
    expected = loss_by_loops(context @ weight.T + bias, targets, beta)
    assert output.prediction.total.item() == pytest.approx(expected, rel=1e-9)
    assert sum(output.prediction.num_predictions) == mask.targets.numel()

    output.prediction.total.backward()
    assert all(parameter.grad is None for parameter in ours.teacher.parameters())
    trained = [name for name, one in ours.named_parameters() if one.requires_grad]
    assert [name for name in trained if ours.get_parameter(name).grad is None] == []


def test_the_teacher_is_the_average_of_the_student(tmp_path: Path) -> None:
    """Equation 1, of the layers; in the released code the positions are those of the student."""
    _, ours = pair(tmp_path / "theirs")
    before = {name: value.clone() for name, value in ours.teacher.network.named_parameters()}
    with torch.no_grad():
        for parameter in ours.context.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours.teacher.follow(ours.context, 9_999)
    decay = 0.999 + 0.0009 / 3
    students = dict(ours.context.named_parameters())
    for name, average in ours.teacher.network.named_parameters():
        expected = decay * before[name] + (1 - decay) * students[name]
        if name.startswith(("positions.", "input_projection.")):
            expected = students[name]
        assert_close(average, expected, rtol=1e-12, atol=1e-12, msg=name)
