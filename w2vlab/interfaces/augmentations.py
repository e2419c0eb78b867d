"""The family that changes the audio of training utterances."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

from w2vlab.interfaces.capabilities import OfUtterances

Audio = npt.NDArray[np.float32]
"""The samples of an utterance at 16 kHz, shape `(S,)`."""


class Sounds(Protocol):
    """The sounds of a corpus, such as noises or impulse responses, read at any place; the data layer has them."""

    def __len__(self) -> int:
        """Returns the number of sounds, at least 1."""

    def num_samples(self, index: int) -> int:
        """Returns the samples of a sound at 16 kHz, at least 1."""

    def read(self, index: int, start: int, length: int) -> Audio | None:
        """Reads samples `[start, start + length)` of a sound; None if its file is damaged, which is counted."""


class Augmentation(ABC):
    """Changes the audio of the utterances of a training batch, in the worker process that has read them.

    Validation, evaluation and `w2vlab encode` read audio as it is. All draws come from the generators that are given:
    one for each utterance, seeded by (seed, epoch, utterance, name of the part). So they are the same on any number of
    processes and workers, and in a resumed run. A part keeps each argument of its constructor in an attribute of the
    same name, because a resumed run compares them.

    Attributes:
        sounds: The sounds of `corpora`; set by the data module before a training.
        changes_speed: Whether `draw_speed` may return another factor than 1, after which the frames of an utterance are
            at other times than in files of its units.
        keeps_targets: Whether the targets of an utterance stay those of its audio without this augmentation. Such an
            augmentation is applied after the others, and the objective must follow `AudioBatch.clean`.
    """

    changes_speed: ClassVar[bool] = False
    keeps_targets: ClassVar[bool] = False
    sounds: Mapping[str, Sounds]

    @property
    def corpora(self) -> tuple[str, ...]:
        """Folders, manifests or names of the corpora that it takes sounds from."""
        return ()

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"

    def draw_speed(self, generator: np.random.Generator) -> float:
        """Returns the factor by which an utterance is read faster, 1 for its own speed."""
        return 1.0

    @abstractmethod
    def augment(self, utterances: Sequence[Audio], generators: Sequence[np.random.Generator]) -> list[Audio]:
        """Returns the changed audio of each utterance of a batch, as long as it was.

        Args:
            utterances: The audio of each utterance, B arrays of any lengths, which must not be changed in place.
            generators: One source of randomness an utterance.

        Returns:
            B arrays; for an utterance that stays as it is, the array that was given.
        """


class UtteranceAugmentation(Augmentation):
    """An augmentation that changes each utterance by itself."""

    @abstractmethod
    def augment_utterance(self, audio: Audio, generator: np.random.Generator) -> Audio:
        """Returns the changed audio of an utterance, as long as it was.

        Args:
            audio: Shape `(S,)`; must not be changed in place.
            generator: The source of randomness.
        """

    def augment(self, utterances: Sequence[Audio], generators: Sequence[np.random.Generator]) -> list[Audio]:
        """Changes each utterance with its own generator."""
        drawn = zip(utterances, generators, strict=True)
        return [self.augment_utterance(audio, generator) for audio, generator in drawn]


def check_augmentations(augmentations: Sequence[Augmentation], module: nn.Module, follows_clean_audio: bool) -> None:
    """Checks before a training that augmentations fit the targets of a module.

    Args:
        augmentations: The augmentations of the run.
        module: The module, whose parts may read files of units.
        follows_clean_audio: Whether the targets of mixed utterances are those of their clean audio.

    Raises:
        ValueError: One of them does not fit; it is named.
    """
    of_file = [name for name, part in module.named_modules() if isinstance(part, OfUtterances)]
    for part in augmentations:
        name = type(part).__name__
        if part.changes_speed and of_file:
            raise ValueError(
                f"`data.augmentations` must not have {name} with units of a file (model.{of_file[0]}): at another "
                "speed, frames are at other times than in the file. Leave it out."
            )
        if part.keeps_targets and not follows_clean_audio:
            raise ValueError(
                f"`data.augmentations` must not have {name} under {type(module).__name__}, whose targets would be "
                "those of the mixed audio. Use MaskedPrediction, or leave it out."
            )
