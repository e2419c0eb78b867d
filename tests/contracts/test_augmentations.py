"""The contract of augmentations."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from tests.contracts.tiny import build, classes, parameters
from w2vlab.interfaces import Augmentation
from w2vlab.types import RandomAddress

augmentations = pytest.mark.parametrize("cls", classes("augmentation"), ids=lambda cls: cls.__name__)

LENGTHS = (4000, 3200, 1600)
IDS = tuple(f"utterance-{row}" for row in range(len(LENGTHS)))


class Clicks:
    """Three decaying sounds, of which one is shorter than the utterances and one longer."""

    def __len__(self) -> int:
        return 3

    def num_samples(self, index: int) -> int:
        return (800, 3200, 8000)[index]

    def read(self, index: int, start: int, length: int) -> np.ndarray | None:
        noise = np.random.default_rng(index).standard_normal(self.num_samples(index)) * 0.1
        return (noise * np.exp(-np.arange(len(noise)) / 500))[start : start + length].astype(np.float32)


class Damaged(Clicks):
    def read(self, index: int, start: int, length: int) -> np.ndarray | None:
        return None


def make(cls: type, sounds: Any = None, **arguments: Any) -> Augmentation:
    part: Any = build(cls, **({"probability": 1.0} if "probability" in parameters(cls) else {}) | arguments)
    part.sounds = {corpus: sounds or Clicks() for corpus in part.corpora}
    return part


def utterances() -> list[np.ndarray]:
    noise = np.random.default_rng(0)
    return [(0.1 * noise.standard_normal(length)).astype(np.float32) for length in LENGTHS]


def augment(part: Augmentation, audio: list[np.ndarray], epoch: int = 0) -> tuple[list[np.ndarray], list[float]]:
    address = RandomAddress(seed=1, update=epoch, ids=IDS[: len(audio)])
    speeds = [part.draw_speed(generator) for generator in address.generators("speed")]
    return part.augment(audio, address.generators("augment")), speeds


@augmentations
def test_audio_keeps_length_and_type_and_the_input_is_not_changed(cls: type) -> None:
    audio = utterances()
    for epoch in range(5):
        changed, _ = augment(make(cls), audio, epoch)
        for before, original, after in zip(audio, utterances(), changed, strict=True):
            assert np.array_equal(before, original)
            assert (after.shape, after.dtype) == (before.shape, np.dtype(np.float32))
            assert np.isfinite(after).all()


@augmentations
def test_draws_follow_from_the_generators_alone(cls: type) -> None:
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again, later = (augment(make(cls), utterances(), epoch) for epoch in (0, 0, 1))
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(torch.get_rng_state(), torch_before)
    torch.rand(1)
    assert first[1] == again[1]
    assert all(map(np.array_equal, first[0], again[0]))
    assert first[1] != later[1] or not all(map(np.array_equal, first[0], later[0]))


@augmentations
def test_silence_stays_silent(cls: type) -> None:
    for after in augment(make(cls), [np.zeros(length, np.float32) for length in LENGTHS])[0]:
        assert not after.any()


@augmentations
def test_an_utterance_that_stays_as_it_is_is_the_same_array(cls: type) -> None:
    if "probability" not in parameters(cls):
        return
    audio = utterances()
    changed, _ = augment(make(cls, probability=0.0), audio)
    assert all(after is before for before, after in zip(audio, changed, strict=True))


@augmentations
def test_damaged_sounds_change_nothing(cls: type) -> None:
    audio = utterances()
    part = make(cls, Damaged(), **({"noise_probability": 1.0} if "noise_probability" in parameters(cls) else {}))
    if part.corpora:
        changed, _ = augment(part, audio)
        assert all(after is before for before, after in zip(audio, changed, strict=True))


@augmentations
def test_an_utterance_alone(cls: type) -> None:
    (after,), _ = augment(make(cls), utterances()[:1])
    assert after.shape == (LENGTHS[0],)


@augmentations
def test_options_are_kept_and_shown(cls: type) -> None:
    part = make(cls)
    defaults = {name: parameter.default for name, parameter in parameters(cls).items()}
    assert part.options.keys() == defaults.keys()
    assert {name for name, value in part.options.items() if value != defaults[name]} <= {"probability"}
    assert repr(part).startswith(f"{cls.__name__}(")
    assert repr(pickle.loads(pickle.dumps(part))) == repr(part)  # worker processes may be started anew


@augmentations
def test_probabilities_are_checked(cls: type) -> None:
    for name in parameters(cls):
        if name.endswith("probability"):
            with pytest.raises(ValueError, match=rf"`{name}` must be from 0 to 1, but is 2\.0\."):
                build(cls, **{name: 2.0})
