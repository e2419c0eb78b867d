"""Shards of a server of http that works, fails, and comes back."""

from __future__ import annotations

import hashlib
import io
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.runs import fit
from tests.data.shards.making import audio_of, encoded, sound, write_index, write_shar, write_tar
from tests.data.shards.remote.serving import Server
from w2vlab.data.batches.crops import Window
from w2vlab.data.batches.dataset import read_or_reason
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.data.corpora.sample_corpora import fetch
from w2vlab.data.corpora.utterances import Utterances
from w2vlab.data.shards import reading
from w2vlab.data.shards.remote.copies import local_copy, register
from w2vlab.data.shards.remote.retries import retries
from w2vlab.data.shards.remote.transport import FetchError
from w2vlab.data.shards.shard import ShardFile

TAR = "shar/recording.000000.tar"
ALL = {f"u{number:02}" for number in range(10)}


@pytest.fixture
def shar(server: Server) -> Path:
    folder = write_shar(server.folder / "shar")
    write_index(folder)
    return folder


def prepare(url: str, cache: Path) -> Path:
    """Scans a corpus of a server, and returns the path of the manifest."""
    reading._open.clear()
    return prepare_manifest(fetch(url, cache), cache).cuts


@pytest.mark.parametrize("name", ["shar", "shar/", "shar/shards.json"])
def test_audio_and_keys_are_those_of_the_local_folder(server: Server, shar: Path, tmp_path: Path, name: str) -> None:
    local = prepare_manifest(shar, tmp_path / "local").cuts
    remote = prepare(server.url(name), tmp_path / "remote")
    assert not any(path.endswith(".tar") for path in server.requests)  # the scan fetches no audio
    assert Utterances(remote, 1).digest == Utterances(local, 1).digest
    ours, theirs = audio_of(remote), audio_of(local)
    assert {*ours} == ALL
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert [server.requests[f"shar/recording.00000{n}.tar"] for n in range(3)] == [1, 1, 1]


def test_opus_that_lhotse_has_stored_at_48_khz(server: Server, tmp_path: Path) -> None:
    shar = write_shar(server.folder / "shar", 3, 3, "opus")
    write_index(shar)
    local = audio_of(prepare_manifest(shar, tmp_path / "local").cuts)
    # As lhotse writes it through another backend: cuts at 16 kHz, and audio at 48 kHz.
    files = {}
    for number in range(3):
        target = io.BytesIO()
        loud = np.repeat(sound(number, 0.5 + number / 50), 3, axis=0)
        soundfile.write(target, loud, 48_000, format="OGG", subtype="OPUS")
        files |= {f"u{number:02}.opus": target.getvalue(), f"u{number:02}.json": b"{}"}
    write_tar(shar / "recording.000000.tar", files)
    write_index(shar)
    remote = audio_of(prepare(server.url("shar"), tmp_path / "remote"))
    for name, audio in local.items():
        assert len(remote[name]) == len(audio)
        assert np.corrcoef(remote[name], audio)[0, 1] > 0.95


def test_a_run_trains_on_it_with_workers(server: Server, shar: Path, make_module) -> None:
    recorder = fit(make_module(server.url("shar"), num_workers=2), max_epochs=1)
    assert {name for ids, _ in recorder.seen + recorder.validated for name in ids} == ALL
    assert server.requests[TAR] == 1  # one process fetches, others wait


@pytest.mark.parametrize("corpus", ["tars/a-{0..1}.tar", "tars/a-0.tar"])
def test_webdatasets(server: Server, tmp_path: Path, cache: Path, corpus: str) -> None:
    for shard in range(2):
        files = {f"{shard}{number}.flac": encoded(number) for number in range(3)}
        write_tar(server.folder / "tars" / f"a-{shard}.tar", files)
    audio = audio_of(prepare(server.url(corpus), cache))
    assert len(audio) == (6 if "{" in corpus else 3)


def test_a_range_that_is_too_long(server: Server, cache: Path) -> None:
    write_tar(server.folder / "a-0.tar", {"x.flac": encoded(0)})
    with pytest.raises(FetchError, match=r"http.*/a-1.tar: status 404, it does not exist: check the URL\."):
        prepare(server.url("a-{0..1}.tar"), cache)


@pytest.mark.parametrize("fault", [500, 503, 429, "stall", "early", "reset", "short"])
@pytest.mark.parametrize("ranges", [True, False])
def test_failures_that_pass_are_repeated(
    server: Server, shar: Path, cache: Path, fault: int | str, ranges: bool, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = prepare(server.url("shar"), cache)
    server.faults[TAR].extend([fault, fault, fault])
    server.knows_ranges = ranges
    with caplog.at_level(logging.INFO, "w2vlab"):
        assert {*audio_of(manifest)} == ALL
    assert server.requests[TAR] == 4
    assert retries.total == 3
    if ranges and fault in ("stall", "early", "short"):  # with a reset the system drops what was not read yet
        size = (shar / "recording.000000.tar").stat().st_size
        half = size // 2
        assert server.ranges[TAR][:3] == [0, half, half + (size - half) // 2]
    lines = [record.getMessage() for record in caplog.records if "Fetch" in record.getMessage()]
    assert len(lines) == 3  # after 1 and 2 failures, and at the end
    assert lines[0].startswith(f"Fetching {server.url(TAR)} fails (")
    assert "tried again for up to 20 s without progress; 1 failed request in this process so far." in lines[0]
    assert lines[-1] == f"Fetched {server.url(TAR)} after 3 failed requests."


def test_a_server_that_goes_away_and_comes_back(server: Server, shar: Path, cache: Path) -> None:
    manifest = prepare(server.url("shar"), cache)
    server.stop()
    threading.Timer(0.3, server.start).start()
    assert {*audio_of(manifest)} == ALL
    assert retries.total >= 1


def test_the_list_and_the_cuts_are_asked_for_again_too(server: Server, shar: Path, cache: Path) -> None:
    server.faults["shar/shards.json"].extend([500, "early", "stall"])
    server.faults["shar/cuts.000001.jsonl.gz"].extend(["reset", 502])
    assert {*audio_of(prepare(server.url("shar"), cache))} == ALL
    assert retries.total == 5


def test_a_server_that_stays_away_is_given_up(
    server: Server, shar: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = prepare(server.url("shar"), cache)
    monkeypatch.setenv("W2VLAB_FETCH_PATIENCE", "0.5")
    server.faults[TAR].extend([500] * 1000)
    reasons = {cut.id: read_or_reason(cut, Window(0, 1600)) for cut in Utterances(manifest, 1)}
    lost = {name for name, reason in reasons.items() if isinstance(reason, str)}
    assert lost == {"u00", "u01", "u02", "u03"}
    assert str(reasons["u00"]).startswith(f"in a shard that cannot be fetched ({server.url(TAR)}: status 500 (")
    asked = server.requests[TAR]
    assert asked >= 2
    for cut in Utterances(manifest, 1):
        read_or_reason(cut, Window(0, 1600))
    assert server.requests[TAR] == asked  # not again for a minute
    server.faults["shar/shards.json"].extend([500] * 1000)
    with pytest.raises(FetchError, match=r"shards.json: status 500 \(\d+ attempts? in .*\): check the server"):
        prepare(server.url("shar"), cache / "other")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_will_not_pass_is_said_at_once(server: Server, shar: Path, cache: Path, status: int) -> None:
    server.faults["shar/shards.json"].extend([status] * 2)
    with pytest.raises(FetchError, match=rf"^{server.url('shar/shards.json')}: status {status}, .*\.$"):
        prepare(server.url("shar"), cache)
    server.faults["shar/shards.json"].clear()
    manifest = prepare(server.url("shar"), cache)
    server.faults[TAR].append(status)
    reasons = [read_or_reason(cut, Window(0, 1600)) for cut in Utterances(manifest, 1)]
    assert sum(isinstance(reason, str) for reason in reasons) == 4
    assert server.requests[TAR] == 1
    assert retries.total == 0


def test_no_index(server: Server, cache: Path) -> None:
    with pytest.raises(FetchError, match="status 404, it does not exist"):
        prepare(server.url("nothing"), cache)


def test_a_host_that_does_not_exist(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("W2VLAB_FETCH_PATIENCE", "0.05")
    with pytest.raises(FetchError, match=r"^http://host.invalid/shards.json: .*: check the server and the network\.$"):
        prepare("http://host.invalid", cache)


def test_a_shard_that_has_changed_on_the_server(server: Server, shar: Path, cache: Path) -> None:
    manifest = prepare(server.url("shar"), cache)
    data = (server.folder / TAR).read_bytes()
    (server.folder / TAR).write_bytes(data + bytes(512))
    reason = read_or_reason(next(iter(Utterances(manifest, 1))), Window(0, 1600))
    changed = bytearray(data)
    changed[1000] ^= 1
    (server.folder / TAR).write_bytes(changed)
    reading._open.clear()
    reasons = {
        str(found) for cut in Utterances(manifest, 1) if isinstance(found := read_or_reason(cut, Window(0, 1600)), str)
    }
    (reason,) = reasons
    assert "bytes, as when the corpus was scanned, but has" in reason or "its SHA-256 must be" in reason


def test_a_tar_that_was_cut_off_before_it_was_uploaded(server: Server, cache: Path) -> None:
    shar = write_shar(server.folder / "shar")
    tar = shar / "recording.000000.tar"
    tar.write_bytes(tar.read_bytes()[:512])
    write_index(shar)
    manifest = prepare(server.url("shar"), cache)
    reasons = {cut.id: read_or_reason(cut, Window(0, 1600)) for cut in Utterances(manifest, 1)}
    assert {name for name, found in reasons.items() if isinstance(found, str)} == {"u00", "u01", "u02", "u03"}
    assert reasons["u03"] == "missing from its shard recording.000000.tar"


def test_neither_lengths_nor_an_index_of_sizes(server: Server, cache: Path) -> None:
    write_tar(server.folder / "a.tar", {f"{n}.flac": encoded(n) for n in range(3)})
    server.knows_lengths = False
    server.faults["a.tar"].append("short")
    manifest = prepare_manifest(fetch(server.url("a.tar"), cache), cache)
    # Nobody says that bytes are missing, but the end of the tar does.
    assert 0 < len(audio_of(manifest.cuts)) < 3
    assert manifest.skipped.total == 1
    assert "cut off in its shard a.tar" in str(manifest.skipped) or "of a damaged shard" in str(manifest.skipped)


def test_a_server_that_refuses_to_name_sizes(server: Server, cache: Path) -> None:
    write_tar(server.folder / "a.tar", {f"{n}.flac": encoded(n) for n in range(3)})
    server.refuses_head = True
    assert len(audio_of(prepare(server.url("a.tar?signature=x"), cache))) == 3


def test_an_unfinished_copy_that_is_longer_than_the_file(server: Server, cache: Path) -> None:
    data = bytes(range(256)) * 100
    (server.folder / "a.tar").write_bytes(data)
    tag = f'"{hashlib.md5(data).hexdigest()}"'
    for have in (data, data + b"more"):
        file = ShardFile(server.url("a.tar"), None, None, tag)
        place = register(file, cache)
        place.with_name(place.name + ".part").write_bytes(have)
        assert local_copy(place, file.location).read_bytes() == data
        place.unlink()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("W2VLAB_SHARD_CACHE_GB", "-1"),
        ("W2VLAB_FETCH_TIMEOUT", "0"),
        ("W2VLAB_FETCH_PATIENCE", "much"),
        ("W2VLAB_SHARD_CACHE", "/proc/nowhere"),
    ],
)
def test_settings_are_checked_before_a_training(
    server: Server, shar: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Its manifest is there, so that no shard would be fetched before the training, which would leave all out."""
    prepare(server.url("shar"), cache)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"^`{variable}` must be "):
        prepare(server.url("shar"), cache)
