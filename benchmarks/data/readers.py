"""Who reads crops: ours, a plain dataset with soundfile, Hugging Face datasets, and lhotse from Shar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from w2vlab.data.batches.crops import Window, choose_windows
from w2vlab.data.batches.dataset import SpeechDataset
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.data.corpora.sample_corpora import fetch
from w2vlab.data.corpora.utterances import Utterances, num_samples
from w2vlab.types import SAMPLE_RATE, RandomAddress, Seconds

SEED = 0

Reader = Callable[[int], Iterator[Tensor]]
"""Takes the number of an epoch, and yields its batches of crops at 16 kHz, `(B, S)`."""


@dataclass
class Plan:
    """Batches of utterances of similar length.

    Attributes:
        cuts: Cuts of each batch.
        paths: Files of each batch.
        max_samples: Longest crop; all of a batch are as long as the shortest.
    """

    cuts: list[list[Cut]]
    paths: list[list[Path]]
    max_samples: int

    def windows(self, number: int, epoch: int) -> list[Window]:
        """Returns the crops of a batch, as `SpeechDataset` draws them."""
        cuts = self.cuts[number]
        address = RandomAddress(seed=SEED, update=epoch, ids=tuple(cut.id for cut in cuts), stream="train")
        return choose_windows([num_samples(cut) for cut in cuts], self.max_samples, True, address)

    def of_full_files(self) -> Plan:
        """Returns batches of one full utterance each, in the same order."""
        cuts = [[cut] for group in self.cuts for cut in group]
        longest = max(num_samples(cut) for group in cuts for cut in group)
        return Plan(cuts, [[path] for group in self.paths for path in group], longest)

    def seconds(self, epoch: int) -> Seconds:
        """Returns the audio in the crops of an epoch."""
        windows = [window for number in range(len(self.cuts)) for window in self.windows(number, epoch)]
        return sum(window.length for window in windows) / SAMPLE_RATE


def make_plan(source: Path, cache: Path, batch: int, crop: Seconds) -> Plan:
    """Scans a folder of files or shards, and groups utterances of similar length."""
    cuts = sorted(
        Utterances(prepare_manifest(fetch(str(source), cache), cache).cuts, 1), key=lambda cut: (cut.duration, cut.id)
    )
    batches = [cuts[first : first + batch] for first in range(0, len(cuts), batch)]
    paths = [[Path(cut.recording.sources[0].source) for cut in group] for group in batches]
    return Plan(batches, paths, round(crop * SAMPLE_RATE))


def ours(plan: Plan) -> Reader:
    """Returns w2vlab's reader."""
    dataset = SpeechDataset(plan.max_samples, crop_to_shortest=True, seed=SEED, random=True)

    def read(epoch: int) -> Iterator[Tensor]:
        for cuts in plan.cuts:
            batch = dataset.read(cuts, epoch)
            assert batch is not None, "the files are good"
            assert len(batch.ids) == len(cuts), "the files are good"
            yield batch.waveform

    return read


class PlainDataset(Dataset[Tensor]):
    """What most recipes write: `soundfile.read` of a crop, and torchaudio's resampling with its defaults.

    Args:
        crops: File and crop of each item.
    """

    def __init__(self, crops: Sequence[tuple[Path, Window]]) -> None:
        self.crops = crops
        self.rates = {path: soundfile.info(path).samplerate for path, _ in crops}

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> Tensor:
        path, window = self.crops[index]
        rate = self.rates[path]
        start, length = (value * rate // SAMPLE_RATE for value in (window.start, window.length))
        audio, _ = soundfile.read(path, start=start, frames=length, dtype="float32")
        waveform = torch.from_numpy(audio)
        return waveform if rate == SAMPLE_RATE else torchaudio.functional.resample(waveform, rate, SAMPLE_RATE)


def plain(plan: Plan) -> Reader:
    """Returns the reader of a plain dataset in this process."""

    def read(epoch: int) -> Iterator[Tensor]:
        groups = [list(zip(paths, plan.windows(n, epoch), strict=True)) for n, paths in enumerate(plan.paths)]
        crops = [crop for group in groups for crop in group]
        ends = np.cumsum([len(group) for group in groups])
        batches = [list(range(end - len(group), end)) for group, end in zip(groups, ends, strict=True)]
        yield from DataLoader(PlainDataset(crops), batch_sampler=batches, num_workers=0)

    return read


def hugging_face(plan: Plan, ranges: bool = False) -> Reader:
    """Returns the reader of Hugging Face datasets: the column `Audio(sampling_rate=16000)`, and then the crop.

    Args:
        plan: The batches.
        ranges: Whether its decoder decodes only the crop, which their documentation does not show.

    Raises:
        ImportError: datasets or torchcodec is missing.
    """
    import datasets

    paths = [str(path) for group in plan.paths for path in group]
    table = datasets.Dataset.from_dict({"audio": paths})
    table = table.cast_column("audio", datasets.Audio(sampling_rate=SAMPLE_RATE))

    def crop(index: int, window: Window) -> Tensor:
        audio: Any = table[index]["audio"]
        if ranges:
            start = window.start / SAMPLE_RATE
            samples: Tensor = audio.get_samples_played_in_range(start, start + window.length / SAMPLE_RATE).data
            return samples[0, : window.length]
        return torch.from_numpy(audio["array"])[window.start :][: window.length]

    def read(epoch: int) -> Iterator[Tensor]:
        first = 0
        for number, group in enumerate(plan.paths):
            windows = plan.windows(number, epoch)
            crops = [crop(first + place, window) for place, window in enumerate(windows)]
            shortest = min(len(item) for item in crops)  # a resampled range may lack its last sample
            yield torch.stack([item[:shortest] for item in crops])
            first += len(group)

    return read


def lhotse_shar(plan: Plan, folder: Path) -> Reader:
    """Returns lhotse's reader of Shar, in the order of the shards; it loads the crops that ours does."""

    def read(epoch: int) -> Iterator[Tensor]:
        windows = {
            cut.id: window
            for number, cuts in enumerate(plan.cuts)
            for cut, window in zip(cuts, plan.windows(number, epoch), strict=True)
        }
        for cut in CutSet.from_shar(in_dir=folder):
            window = windows[cut.id]
            part = cut.truncate(offset=window.start / SAMPLE_RATE, duration=window.length / SAMPLE_RATE)
            yield torch.from_numpy(part.load_audio())

    return read
