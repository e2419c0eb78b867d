"""The cache of shards: one process fetches, nothing wrong is left, and the size is bounded."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.data.shards.remote.serving import Server
from w2vlab.data.shards.remote import copies
from w2vlab.data.shards.remote.copies import local_copy, register
from w2vlab.data.shards.remote.transport import FetchError
from w2vlab.data.shards.shard import ShardFile

BYTES = os.urandom(300_000)


@pytest.fixture
def file(server: Server) -> ShardFile:
    """A file of the server, with its size and checksum."""
    (server.folder / "a.tar").write_bytes(BYTES)
    return ShardFile(server.url("a.tar"), len(BYTES), hashlib.sha256(BYTES).hexdigest())


def in_folder(folder: Path) -> set[str]:
    """Returns the names of the files of a cache, without their descriptions."""
    return {path.name for path in folder.iterdir() if path.suffix != ".json"}


def fetch_in_process(place: Path, url: str) -> None:
    local_copy(place, url)


def start(place: Path, url: str) -> multiprocessing.process.BaseProcess:
    """Fetches in another process."""
    process = multiprocessing.get_context("fork").Process(target=fetch_in_process, args=(place, url))
    process.start()
    return process


def wait_for(condition) -> None:
    while not condition():
        time.sleep(0.005)


def test_it_is_fetched_once(server: Server, file: ShardFile, cache: Path) -> None:
    place = register(file, cache)
    assert local_copy(place, file.location).read_bytes() == BYTES
    assert local_copy(place, file.location) == place
    assert server.requests["a.tar"] == 1
    assert in_folder(place.parent) == {place.name}


def test_several_processes_fetch_it_once(server: Server, file: ShardFile, cache: Path, monkeypatch) -> None:
    place = register(file, cache)
    server.faults["a.tar"].append("stall")  # so that the others have to wait
    processes = [start(place, file.location) for _ in range(4)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert server.requests["a.tar"] == 2
    assert in_folder(place.parent) == {place.name}
    assert place.read_bytes() == BYTES


def test_a_process_that_is_killed_leaves_what_the_next_one_resumes(
    server: Server, file: ShardFile, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("W2VLAB_FETCH_TIMEOUT", "60")
    place = register(file, cache)
    server.faults["a.tar"].append("stall")
    process = start(place, file.location)
    part = place.with_name(place.name + ".part")
    wait_for(lambda: part.exists() and part.stat().st_size == len(BYTES) // 2)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not place.exists()
    assert local_copy(place, file.location).read_bytes() == BYTES
    assert server.ranges["a.tar"] == [0, len(BYTES) // 2]


def test_what_another_file_has_left_is_not_resumed(server: Server, file: ShardFile, cache: Path) -> None:
    place = register(file, cache)
    part = place.with_name(place.name + ".part")
    part.write_bytes(bytes(1000))
    assert local_copy(place, file.location).read_bytes() == BYTES  # by its checksum
    assert server.ranges["a.tar"] == [1000, 0]
    unknown = register(ShardFile(file.location), cache)
    unknown.with_name(unknown.name + ".part").write_bytes(bytes(1000))
    assert local_copy(unknown, file.location).read_bytes() == BYTES  # nothing is known, so nothing is resumed
    assert server.ranges["a.tar"][2:] == [0]
    longer = register(ShardFile(file.location, len(BYTES), None, '"another version"'), cache)
    longer.with_name(longer.name + ".part").write_bytes(bytes(1000))
    assert local_copy(longer, file.location).read_bytes() == BYTES  # by its version


def test_a_wrong_checksum_is_an_error_and_no_file(server: Server, file: ShardFile, cache: Path) -> None:
    wrong = ShardFile(file.location, file.size, "0" * 64)
    place = register(wrong, cache)
    with pytest.raises(FetchError, match=rf"^{file.location}: its SHA-256 must be 0000.* by the index, but is"):
        local_copy(place, file.location)
    assert not place.exists()


def test_the_cache_is_bounded_and_the_oldest_is_removed(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("W2VLAB_SHARD_CACHE_GB", "0.0007")
    places = []
    for number in range(4):
        (server.folder / f"{number}.tar").write_bytes(BYTES)
        places.append(register(ShardFile(server.url(f"{number}.tar"), len(BYTES)), cache))
    for number, place in enumerate(places):
        if number == 2:
            os.utime(places[0], (time.time() + 10, time.time() + 10))  # it was used after the second
        local_copy(place, server.url(f"{number}.tar"))
        if number == 0:
            opened = place.open("rb")
    assert [place.exists() for place in places] == [True, False, False, True]
    assert sum(path.stat().st_size for path in places[0].parent.glob("*.tar")) <= 700_000
    assert opened.read() == BYTES  # a process that has opened it reads on
    opened.close()
    assert local_copy(places[1], server.url("1.tar")).read_bytes() == BYTES


def test_a_shard_that_is_larger_than_the_cache(
    server: Server, file: ShardFile, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("W2VLAB_SHARD_CACHE_GB", "0.0001")
    place = register(file, cache)
    assert local_copy(place, file.location).read_bytes() == BYTES
    assert "A shard of 0.0003 GB is larger than the cache of shards" in caplog.text


@pytest.mark.parametrize("variable", ["W2VLAB_SHARD_CACHE_GB", "W2VLAB_FETCH_TIMEOUT", "W2VLAB_FETCH_PATIENCE"])
@pytest.mark.parametrize("value", ["much", "0", "-1", "nan", "inf"])
def test_bad_limits(file: ShardFile, cache: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"`{variable}` must be a number"):
        local_copy(register(file, cache), file.location)


def test_another_folder(file: ShardFile, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("W2VLAB_SHARD_CACHE", str(tmp_path / "disk"))
    place = register(file, cache)
    assert local_copy(place, file.location) == tmp_path / "disk" / place.name
    assert not place.exists()


def test_a_folder_that_is_not_writable(
    file: ShardFile, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").write_bytes(b"")
    monkeypatch.setenv("W2VLAB_SHARD_CACHE", str(tmp_path / "plain" / "inner"))
    with pytest.raises(FetchError, match=r"it cannot be written to .*inner \(.*\): make room, or set W2VLAB"):
        local_copy(register(file, cache), file.location)


def test_those_that_waited_do_not_wait_again(
    server: Server, file: ShardFile, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("W2VLAB_FETCH_PATIENCE", "0.3")
    place = register(file, cache)
    server.faults["a.tar"].extend([500] * 10_000)
    failures: list[str] = []

    def attempt() -> None:
        with pytest.raises(FetchError) as raised:
            copies._fetch(file, place, 0.3)
        failures.append(str(raised.value))

    threads = [threading.Thread(target=attempt) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 3
    assert len({*failures}) == 1  # the words of the one that has tried
