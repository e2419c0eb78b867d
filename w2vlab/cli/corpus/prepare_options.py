"""The options of `w2vlab prepare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from w2vlab.utils.checks import check_at_least


@dataclass(kw_only=True)
class PrepareOptions:
    """Makes a corpus ready for training: fetches, scans and cuts it, and writes a manifest, or shards of audio.

    Without --shards, OUT gets cuts.jsonl.gz, a lhotse manifest that refers to the audio where it is. With it, OUT gets
    the audio itself, as FLAC of one channel at 16 kHz in the layout of lhotse Shar. Both are for `--data.corpus=OUT`.
    If the command is ended, the same command resumes, with the same bytes as the result. At the end, prepare.json says
    what OUT has, and a table is printed.

      w2vlab prepare --list
      w2vlab prepare festvox-ru OUT --shards
      w2vlab prepare librispeech OUT --recipe.dataset_parts=dev-clean --shards
      w2vlab prepare FOLDER OUT --max_seconds=30 --split=vad

    Attributes:
        source: A folder of audio, a fairseq .tsv manifest, a lhotse manifest, a sample corpus such as festvox-ru or
            asterisk (five languages, each in a folder of its own), or the name of a recipe of lhotse.
        out: The folder to write.
        list: List the corpora and recipes that can be a source.
        shards: Write shards of audio, in a shuffled order.
        shard_utterances: Most utterances in a shard.
        shard_minutes: Most audio in a shard, in minutes; 480 are about half a gigabyte.
        max_seconds: Cut recordings that are longer, in seconds; by default none is cut.
        split: Where to cut them: even (pieces of about equal length), or vad (where a voice activity detector finds
            least speech; longer pauses are dropped; needs the extra w2vlab[vad]).
        recipe: Options of lhotse's recipe, as --recipe.NAME=VALUE; the folder of a corpus that you have, such as
            --recipe.corpus_dir=FOLDER, avoids its download.
        processes: Processes that read and write; by default one for each core. The result is the same for any number.
        cache_dir: Folder of fetched corpora and scans, as for `w2vlab fit`.
        overwrite: Replace another preparation in OUT.
        check: Compare the checksums of a complete OUT with its files.
    """

    source: str | None = None
    out: Path | None = None
    list: bool = False
    shards: bool = False
    shard_utterances: int = 1000
    shard_minutes: float = 480.0
    max_seconds: float | None = None
    split: Literal["even", "vad"] = "even"
    recipe: dict[str, Any] = field(default_factory=dict)
    processes: int | None = None
    cache_dir: Path | None = None
    overwrite: bool = False
    check: bool = False

    def __post_init__(self) -> None:
        if not self.list:
            for name in ("source", "out"):
                if getattr(self, name) is None:
                    raise ValueError(f"`{name}` must be given. `w2vlab prepare --help` lists the options.")
        check_at_least(1, shard_utterances=self.shard_utterances, processes=self.processes)
        if not 0 < self.shard_minutes < float("inf"):
            raise ValueError(f"`shard_minutes` must be positive, but is {self.shard_minutes:g}.")
        if self.max_seconds is not None and not 1 <= self.max_seconds < float("inf"):
            raise ValueError(f"`max_seconds` must be at least 1, but is {self.max_seconds:g}.")
        if self.max_seconds is None and self.split != "even":
            raise ValueError("`split` has no effect without `max_seconds`, the longest piece: add --max_seconds=30.")
        if not self.shards and (self.shard_utterances, self.shard_minutes) != (1000, 480.0):
            raise ValueError("`shard_utterances` and `shard_minutes` have no effect without `shards`: add --shards.")
