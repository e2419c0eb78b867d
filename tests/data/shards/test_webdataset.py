"""WebDataset: a tar, a folder of tars, or a range of numbers."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.runs import fit
from tests.data.shards.making import audio_of, cut_off, encoded, headers, sound, write_tar
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.data.corpora.sample_corpora import fetch
from w2vlab.data.labels.transcripts import read_transcripts


def write(path: Path, numbers: range, kind: str = "flac") -> Path:
    """Writes a tar of utterances `u000`, `u001`, … with transcripts."""
    files: dict[str, bytes] = {}
    for number in numbers:
        files[f"u{number:03}.{kind}"] = encoded(number, kind)
        if number % 2:
            files[f"u{number:03}.txt"] = f"word {number}\n".encode()
        else:
            files[f"u{number:03}.json"] = json.dumps({"sentence": f"word {number}", "n": 1}).encode()
    return write_tar(path, files)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "opus"])
def test_a_tar_is_a_corpus(tmp_path: Path, cache: Path, kind: str) -> None:
    tar = write(tmp_path / "a.tar", range(3), kind)
    manifest = prepare_manifest(fetch(str(tar), cache), cache)
    audio = audio_of(manifest.cuts)
    assert sorted(audio) == ["u000", "u001", "u002"]
    for number in range(3):
        expected, rate = soundfile.read(io.BytesIO(encoded(number, kind)), dtype="float32")
        assert rate == 16_000
        assert np.abs(audio[f"u{number:03}"] - expected).max() < 1e-6  # mp3 differs in rounding from call to call
    transcripts = read_transcripts(manifest.cuts, "characters")
    assert [transcripts.get(f"u{number:03}") for number in range(3)] == ["word 0", "word 1", "word 2"]


@pytest.mark.parametrize("corpus", ["{tmp}", "{tmp}/train-{{000..002}}.tar", "{tmp}/train-{{000..001}}.tar"])
def test_a_folder_of_tars_and_a_range_of_numbers(tmp_path: Path, make_module, corpus: str) -> None:
    folder = tmp_path / "tars"
    for shard in range(3):
        write(folder / f"train-{shard:03}.tar", range(4 * shard, 4 * shard + 4))
    module = make_module(corpus.format(tmp=folder))
    recorder = fit(module, max_epochs=1)
    seen = {name for ids, _ in recorder.seen + recorder.validated for name in ids}
    assert seen == {f"u{number:03}" for number in range(8 if "001}" in corpus else 12)}


def test_a_tar_that_is_missing_in_a_range_is_counted(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "t" / "a-0.tar", range(2))
    manifest = prepare_manifest(fetch(str(tmp_path / "t" / "a-{0..1}.tar"), cache), cache)
    assert manifest.skipped.counts == {"missing shard": 1}
    assert manifest.skipped.examples == {"missing shard": ["a-1.tar"]}
    with pytest.raises(ValueError, match="`corpus` must name existing tars, but none of"):
        prepare_manifest(fetch(str(tmp_path / "t" / "b-{0..1}.tar"), cache), cache)
    with pytest.raises(ValueError, match="from a smaller to a larger number"):
        prepare_manifest(fetch(str(tmp_path / "t" / "a-{1..0}.tar"), cache), cache)


@pytest.mark.parametrize("cut", ["at a member", "in a header", "in a member"])
def test_a_tar_that_is_cut_off_is_used_up_to_its_end(tmp_path: Path, cache: Path, cut: str) -> None:
    tar = write(tmp_path / "a.tar", range(6))
    third = headers(tar)[4]
    places = {"at a member": 0, "in a header": 100, "in a member": 600}
    cut_off(tar, third.offset + places[cut])
    manifest = prepare_manifest(fetch(str(tar), cache), cache)
    assert sorted(audio_of(manifest.cuts)) == ["u000", "u001"]
    if cut == "in a member":
        assert manifest.skipped.examples == {"cut off in its shard a.tar": ["u002"]}
    else:
        assert manifest.skipped.examples == {"after the end of a damaged shard": ["a.tar:3"]}


def test_strange_members_are_counted_and_never_unpacked(tmp_path: Path, cache: Path) -> None:
    tar = tmp_path / "t" / "a.tar"
    tar.parent.mkdir()
    long = "d/" + "x" * 150
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as file:

        def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, link
            file.addfile(info, io.BytesIO(data))

        add("../outside.flac", encoded(0))
        add("/absolute.flac", encoded(1))
        add("./plain.flac", encoded(2))
        add("plain.flac", encoded(3))
        add("link.flac", kind=tarfile.SYMTYPE, link="/etc/passwd")
        add("hard.flac", kind=tarfile.LNKTYPE, link="./plain.flac")
        add("pipe.wav", kind=tarfile.FIFOTYPE)
        add("folder.flac/", kind=tarfile.DIRTYPE)
        add("song.m4a", b"\0" * 100)
        add("._plain.flac", b"junk")
        add("empty.wav")
        add("broken.flac", b"fLaC" + bytes(2000))
        add(f"{long}.flac", encoded(4))
        add("größe.flac", encoded(5))
        add("bad\udcff.flac", encoded(6))
    manifest = prepare_manifest(fetch(str(tar), cache), cache)
    audio = audio_of(manifest.cuts)
    assert sorted(audio) == sorted(["../outside", "/absolute", "plain", long, "größe"])
    assert np.abs(audio["plain"] - sound(2)[:, 0]).max() < 1e-4
    assert np.abs(audio["größe"] - sound(5)[:, 0]).max() < 1e-4
    assert np.abs(audio[long] - sound(4)[:, 0]).max() < 1e-4
    assert {path.name for path in tmp_path.iterdir()} == {"t", "cache"}
    assert manifest.skipped.counts == {
        "listed twice": 1,
        "a link or device in its shard, not read a.tar": 3,
        ".m4a, not read: convert with `ffmpeg -i X.m4a -vn X.flac`": 1,
        "empty": 1,
        "unreadable": 1,
        "with a name that is not UTF-8": 1,
    }


def test_compressed_tars_are_refused(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "a.tar.gz").write_bytes(b"")
    for corpus in (folder, folder / "a.tar.gz"):
        with pytest.raises(ValueError, match=r"tars that are not compressed.*gunzip"):
            prepare_manifest(fetch(str(corpus), cache), cache)


def test_no_tar_at_all(tmp_path: Path, cache: Path) -> None:
    tar = tmp_path / "a.tar"
    tar.write_bytes(b"no tar" * 1000)
    with pytest.raises(ValueError, match="none of 1 can be used: 1 after the end of a damaged shard"):
        prepare_manifest(fetch(str(tar), cache), cache)


def test_ids_that_two_tars_have_are_counted(tmp_path: Path, cache: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "t" / f"{name}.tar", range(2))
    manifest = prepare_manifest(fetch(str(tmp_path / "t"), cache), cache)
    assert manifest.skipped.examples == {"listed twice": ["u000", "u001"]}
    assert len(audio_of(manifest.cuts)) == 2
