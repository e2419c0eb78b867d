"""Which corpora are in shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.conftest import write_ramp
from w2vlab.data.shards.sources import ShardedCorpus, expand_ranges, is_sharded, parse_source


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["shards.json"], True),
        (["cuts.000000.jsonl.gz", "recording.000000.tar", "features.000000.tar"], True),
        (["cuts.jsonl", "recording.tar", "inner/a.wav"], True),
        (["a.tar", "b.tar", "readme.md"], True),
        (["a.tar.gz"], True),
        (["a.tar", "a.wav"], False),
        (["a.tar", "inner/a.wav"], False),
        (["cuts.jsonl.gz", "a.wav"], False),
        (["a.wav"], False),
        ([], False),
    ],
)
def test_folders(tmp_path: Path, files: list[str], expected: bool) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert is_sharded(tmp_path) is expected


def test_a_folder_of_audio_beside_a_tar_is_scanned_as_before(tmp_path: Path, ready_module) -> None:
    for number in range(4):
        write_ramp(tmp_path / "c" / f"{number}.wav", 0.3)
    (tmp_path / "c" / "original.tar").write_bytes(b"")
    module = ready_module(tmp_path / "c")
    assert len(module._train) + len(module._val) == 4


def test_a_url_stays_a_url() -> None:
    for url in ("s3://bucket/a/b", "https://host/x/", "HTTP://host/a.tar?sig=1"):
        source = parse_source(url)
        assert isinstance(source, ShardedCorpus)
    assert str(parse_source("https://host/x/")) == "https://host/x"
    assert parse_source("s3://bucket/a/b").stem == "b"


@pytest.mark.parametrize("url", ["gs://bucket/a", "ftp://host/a"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="`corpus` must be a path or begin with s3:// or http:// or https://, but is"):
        parse_source(url)


def test_a_password_in_a_url_is_refused() -> None:
    with pytest.raises(ValueError, match="without a user or password"):
        parse_source("https://me:secret@host/a")


def test_ranges() -> None:
    assert [*expand_ranges("a-{08..11}.tar")] == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert [*expand_ranges("{0..1}/{3..4}")] == ["0/3", "0/4", "1/3", "1/4"]
    assert [*expand_ranges("plain")] == ["plain"]
    with pytest.raises(ValueError, match="range"):
        [*expand_ranges("{0..99999999}")]
