"""The index of shards, which may come from anybody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.shards.making import write_index, write_shar
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.data.shards.index_file import parse_index

GOOD: dict[str, Any] = {"recording": "recording.000000.tar", "cuts": "cuts.000000.jsonl.gz", "bytes": 10}


def text(*shards: Any, **top: Any) -> str:
    return json.dumps({"version": 1, "shards": shards} | top)


def test_a_good_one() -> None:
    (shard,) = parse_index(text({**GOOD, "sha256": "0" * 64, "utterances": 3, "other": []}), "X")
    assert (shard.recording.name, shard.recording.size, shard.utterances) == ("recording.000000.tar", 10, 3)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.tar", "a/../../b", "a\\b.tar", "s3://b/c.tar", "a\nb", "", 3])
@pytest.mark.parametrize("key", ["recording", "cuts"])
def test_files_outside_the_folder_are_refused(key: str, name: object) -> None:
    with pytest.raises(ValueError, match=rf"`{key}` of shard 0 of `shards` must be the name of a file in its folder"):
        parse_index(text({**GOOD, key: name}), "X")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "X must be an index of shards that `w2vlab prepare` wrote, but"),
        ("[" * 100_000, "nested"),
        (text(GOOD, version=2), "its version must be 1, but is 2"),
        (json.dumps({"version": 1}), "it has no list `shards`"),
        (text(), "must list at least one shard"),
        (text(GOOD, GOOD), "must list each shard once"),
        (text([]), "is no mapping"),
        (text({}), "has no `recording`"),
        (text({**GOOD, "bytes": -1}), "`bytes` of shard 0 of `shards` must be a number of at least 0, but is -1"),
        (text({**GOOD, "utterances": "many"}), "`utterances`"),
        (text({**GOOD, "sha256": "abc"}), "`sha256` of shard 0 of `shards` must be a SHA-256"),
    ],
)
def test_bad_ones_are_refused_in_a_line(content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        parse_index(content, "X")
    assert "\n" not in str(raised.value)


def test_a_shard_that_the_index_names_may_be_missing(tmp_path: Path, cache: Path) -> None:
    shar = write_shar(tmp_path / "shar", 8)
    write_index(shar)
    (shar / "recording.000000.tar").unlink()
    skipped = prepare_manifest(shar, cache).skipped
    assert skipped.counts == {"in a shard that is missing or cannot be read: recording.000000.tar": 4}
