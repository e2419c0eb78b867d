"""Tiny corpora of three languages, of different sizes, and modules that mix them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lhotse import Recording
from lhotse.shar import SharWriter

from tests.data.conftest import write_ramp
from w2vlab.data import SpeechDataModule
from w2vlab.data.corpora.manifests import prepare_manifest

SIZES = {"en": 40, "fr": 20, "it": 10}

OPTIONS = dict(batch_seconds=1.5, max_seconds=0.4, min_seconds=0.1, num_buckets=3, num_workers=0, alpha=0.5)


def write_corpora(root: Path) -> dict[str, str]:
    """Folders with files of 0.2 to 0.59 s; the same names occur in all of them."""
    for name, size in SIZES.items():
        for number in range(size):
            write_ramp(root / name / f"u{number:02}.wav", 0.2 + (number * 7 % 40) / 100)
    return {name: str(root / name) for name in SIZES}


def make_module(corpora: Any, cache: Path, **arguments: Any) -> SpeechDataModule:
    module = SpeechDataModule(corpora, cache_dir=cache, **{**OPTIONS, **arguments})
    module.prepare_data()
    module.setup()
    return module


def put_into_shards(corpora: dict[str, str], cache: Path, shards: int) -> None:
    """Makes the utterances of every corpus those of shards: what a scan of shards writes, without the tar files."""
    for name, path in corpora.items():
        manifest = prepare_manifest(Path(path), cache).cuts
        cuts = [json.loads(line) for line in manifest.read_text().splitlines()]
        for number, cut in enumerate(cuts):
            cut["custom"] = {**(cut.get("custom") or {}), "shard": f"{name}/recording.{number % shards:06}.tar"}
        manifest.write_text("".join(json.dumps(cut) + "\n" for cut in cuts))


def write_real_shards(folder: Path, out: Path, per_shard: int) -> Path:
    """Puts the files of a folder into shards with their audio, in lhotse's layout."""
    out.mkdir(parents=True)
    with SharWriter(out, fields={"recording": "flac"}, shard_size=per_shard) as writer:
        for file in sorted(folder.iterdir()):
            writer.write(Recording.from_file(file, recording_id=file.stem).to_cut())
    return out


def on_process(monkeypatch: pytest.MonkeyPatch, module: SpeechDataModule, world: int, rank: int, accumulate: int):
    """Makes a module that of one of several processes."""
    monkeypatch.setattr("w2vlab.data.place.world_size", lambda: world)
    for name in ("module", "batches.micro_batches"):
        monkeypatch.setattr(f"w2vlab.data.{name}.world_size", lambda: world)
        monkeypatch.setattr(f"w2vlab.data.{name}.rank", lambda: rank)
    module.trainer = SimpleNamespace(accumulate_grad_batches=accumulate, state=SimpleNamespace(fn="fit"))
    return module


def contents(batches: Sequence[Any]) -> list[tuple[Any, ...]]:
    """What is in batches: which windows of which utterances."""
    return [(batch.ids, batch.starts, batch.num_samples) for batch in batches]
