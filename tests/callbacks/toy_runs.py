"""Runs of a few seconds that collapse, each in its way, and some that do not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from tests.contracts.tiny import audio_batch, build_model
from tests.modules.training import constant_rate
from w2vlab.modules import PretrainingModule, TeacherPrediction
from w2vlab.quantizers import IdentityQuantizer
from w2vlab.teachers import EMATeacher
from w2vlab.types import AudioBatch

SAMPLES = 800
"""Samples of an utterance: 79 frames of the tiny encoder."""


def noise(batches: int = 8, size: int = 4) -> list[AudioBatch]:
    """White noise, which cannot be predicted."""
    return [audio_batch((SAMPLES,) * size, first=index * size) for index in range(batches)]


def tones(batches: int = 16, size: int = 4) -> list[AudioBatch]:
    """Four tones in random order, each for ten frames: something to learn."""
    made = []
    for index in range(batches):
        generator = torch.Generator().manual_seed(1000 + index)
        pitches = torch.tensor([0.02, 0.06, 0.12, 0.25])
        order = torch.randint(0, 4, (size, SAMPLES // 100), generator=generator)
        frequency = pitches[order].repeat_interleave(100, dim=1)  # (B, S)
        waveform = 0.5 * torch.sin(2 * torch.pi * frequency * torch.arange(SAMPLES))
        waveform += 0.02 * torch.randn(waveform.shape, generator=generator)
        made.append(
            AudioBatch(
                waveform=waveform,
                num_samples=(SAMPLES,) * size,
                ids=tuple(f"tones-{index}-{row}" for row in range(size)),
            )
        )
    return made


def silence(batches: int = 8, size: int = 4) -> list[AudioBatch]:
    """Silence."""
    return [
        AudioBatch(waveform=0 * batch.waveform, num_samples=batch.num_samples, ids=batch.ids)
        for batch in noise(batches, size)
    ]


def damaged(which: Sequence[int] = (3,)) -> list[AudioBatch]:
    """White noise with a NaN sample in each batch of `which`, by default in the fourth alone."""
    batches = noise()
    for index in which:
        batches[index].waveform[0, 100] = torch.nan
    return batches


def toy_model(cls: type[PretrainingModule], rate: float, **parts: Any) -> PretrainingModule:
    torch.manual_seed(0)
    optimizer = partial(torch.optim.Adam, lr=rate)
    return build_model(cls, optimizer=optimizer, scheduler=constant_rate, **{"penalties": {}, **parts})


def teacher_model(teacher: dict[str, Any], rate: float = 0.005, **parts: Any) -> PretrainingModule:
    """data2vec's objective, unless `parts` say otherwise; `teacher` has options of `EMATeacher`."""
    options = {"layers": 2, "decay": 0.99, "end_decay": 0.99, **teacher}
    return toy_model(
        TeacherPrediction, rate, **{"teacher": partial(EMATeacher, **options), "quantizer": IdentityQuantizer, **parts}
    )
