"""The dataset: reads the audio of a planned batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from lhotse.cut import Cut
from torch.utils.data import Dataset

from w2vlab.data.batches.augmenting import Augmenter
from w2vlab.data.batches.crops import Window, choose_windows
from w2vlab.data.batches.padding import padded
from w2vlab.data.batches.reading import read_or_reason
from w2vlab.data.batches.sampling import BatchPlan, GroupPlan, Members
from w2vlab.data.corpora.tally import Tally
from w2vlab.data.corpora.utterances import Utterances, num_samples
from w2vlab.types import SAMPLE_RATE, AudioBatch, Draws, RandomAddress, RunError, Seconds
from w2vlab.utils.messages import count, one_line

logger = logging.getLogger(__name__)

Drawer = Callable[[AudioBatch, int], Draws | None]
"""Makes the draws for a batch, from the ids and lengths of its utterances and the number of its update."""


class SpeechDataset(Dataset[AudioBatch]):
    """Reads the windows of a `BatchPlan` into an `AudioBatch`.

    An utterance that cannot be read, or has NaN or infinite samples, is left out of its batch and counted in a warning.
    If no utterance of a batch can be read, the previous batch replaces it, because all processes must make the same
    number of steps.

    Args:
        max_samples: Longest window, in samples at 16 kHz.
        crop_to_shortest: Whether all windows of a batch are cropped to the length of the shortest.
        seed: Seed of the run.
        random: Whether each epoch draws new random windows; otherwise each is the middle of its utterance.
        transcripts: Returns the transcript of an id, for batches with transcripts; None for batches without.
        read_audio: Whether audio is read; otherwise batches have silence of the same length, and no file is opened.
        utterances: The utterances that plans name by their indices; not needed for `read`.
        augmenter: Augments the audio of random windows; None leaves it as it is.
        fusing: Fuses the micro-batches of a `GroupPlan`, of which it gets the numbers; None if there are no such plans.

    Attributes:
        drawer: Makes the draws of a model for a batch that is used in an update of this number; None makes none.
        left_out: File to which reason and id of each utterance are appended that cannot be read; None for no file.
    """

    def __init__(
        self,
        max_samples: int,
        crop_to_shortest: bool,
        seed: int,
        random: bool,
        transcripts: Callable[[str], str | None] | None = None,
        read_audio: bool = True,
        utterances: Utterances | Sequence[Cut] | None = None,
        augmenter: Augmenter | None = None,
        fusing: Callable[[Sequence[AudioBatch], Sequence[int]], AudioBatch] | None = None,
    ) -> None:
        self.max_samples = max_samples
        self.crop_to_shortest = crop_to_shortest
        self.seed = seed
        self.random = random
        self.transcripts = transcripts
        self.read_audio = read_audio
        self.utterances = utterances
        self.augmenter = augmenter if random and augmenter else None
        self.fusing = fusing
        self.drawer: Drawer | None = None
        self.left_out: Path | None = None
        self.skipped = Tally()  # in this worker process

    def __getitem__(self, plan: BatchPlan | GroupPlan) -> AudioBatch:
        """Reads one batch, or all micro-batches of a group.

        Raises:
            RunError: The manifest has been removed, or neither the batch nor its substitute can be read.
        """
        if isinstance(plan, GroupPlan):
            assert self.fusing is not None, "a dataset that reads groups fuses them"
            return self.fusing([self[one] for one in plan.plans], plan.numbers)
        for members in (plan.members, plan.substitute):
            batch = self.read(self._cuts(members), plan.epoch, members.copies)
            if batch is not None:
                return replace(batch, counted=plan.counted, draws=self._draw(batch, plan.update))
        listed = "" if self.left_out is None else f"; all of them are in {self.left_out}"
        raise RunError(
            f"No utterance of two batches could be read ({self.skipped}{listed}). Check that the disk of the corpus is "
            "mounted, and that its files have audio."
        )

    def _draw(self, batch: AudioBatch, update: int | None) -> Draws | None:
        return None if self.drawer is None or update is None else self.drawer(batch, update)

    def _cuts(self, members: Members) -> list[Cut]:
        assert self.utterances is not None, "a dataset that reads plans has their utterances"
        return [self.utterances[index] for index in members.indices]

    def read(self, cuts: Sequence[Cut], epoch: int = 0, copies: Sequence[int] | None = None) -> AudioBatch | None:
        """Reads windows of utterances into a batch.

        Args:
            cuts: The utterances.
            epoch: Epoch for which random windows are drawn.
            copies: How many times each utterance was used before in the epoch, so that it gets another window.

        Returns:
            None if none of them can be read.
        """
        ids = tuple(cut.id for cut in cuts)
        drawn = (
            ids if copies is None else tuple(f"{name}#{n}" if n else name for name, n in zip(ids, copies, strict=True))
        )
        address = RandomAddress(seed=self.seed, update=epoch, ids=drawn, stream="train") if self.random else None
        sizes = [num_samples(cut) for cut in cuts]
        windows = choose_windows(sizes, self.max_samples, self.crop_to_shortest, address)
        speeds = [1.0] * len(cuts)
        if self.augmenter is not None and address is not None:
            windows, speeds = self.augmenter.perturb(cuts, windows, self.crop_to_shortest, address)
        waveforms: list[npt.NDArray[np.float32] | None]
        if self.read_audio:
            waveforms = [self._read_window(*one) for one in zip(cuts, windows, speeds, strict=True)]
        else:
            waveforms = [np.zeros(window.length, dtype=np.float32) for window in windows]
        usable = [(number, audio) for number, audio in enumerate(waveforms) if audio is not None]
        if not usable:
            return None
        lengths = tuple(len(audio) for _, audio in usable)
        names = tuple(ids[number] for number, _ in usable)
        transcripts = None if self.transcripts is None else tuple(self.transcripts(name) or "" for name in names)
        batch = AudioBatch(
            waveform=padded([audio for _, audio in usable], max(lengths)),
            num_samples=lengths,
            ids=names,
            transcripts=transcripts,
            starts=tuple(round(windows[number].start * speeds[number]) for number, _ in usable),
            utterance_samples=tuple(sizes[number] for number, _ in usable),
            corpus_seconds=self._corpus_seconds(names, lengths),
        )
        if self.augmenter is None or address is None:
            return batch
        return self.augmenter(batch, replace(address, ids=tuple(drawn[number] for number, _ in usable)))

    def _corpus_seconds(self, ids: Sequence[str], lengths: Sequence[int]) -> dict[str, Seconds] | None:
        if not isinstance(self.utterances, Utterances) or None in self.utterances.names:
            return None
        found = dict.fromkeys(map(str, self.utterances.names), 0.0)
        for utterance, length in zip(ids, lengths, strict=True):
            found[utterance.partition("/")[0]] += length / SAMPLE_RATE
        return found

    def _read_window(self, cut: Cut, window: Window, speed: float) -> npt.NDArray[np.float32] | None:
        audio = read_or_reason(cut, window, speed)  # (S,)
        if isinstance(audio, str):
            self._skip(audio, cut.id)
            return None
        return audio

    def _skip(self, reason: str, name: str) -> None:
        self.skipped.add(reason, name)
        if self.left_out is not None:
            line = Tally(names=[(reason, name)]).as_lines()
            with suppress(OSError):  # a full disk must not end a run
                self.left_out.parent.mkdir(parents=True, exist_ok=True)
                with self.left_out.open("a", encoding="utf-8") as file:
                    file.write(line)  # a short line is appended whole, by several processes too
        if self.skipped.is_at_a_power_of_two:
            logger.warning(
                "Left out %s in this process so far: %s; the last one was %s (%s).",
                count(self.skipped.total, "window"),  # the same utterance may be left out in each epoch
                self.skipped,
                one_line(name),
                reason,
            )
