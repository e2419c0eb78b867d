"""Downloads with fake apt-get and dpkg programs on PATH."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from tests.data.conftest import write_ramp
from w2vlab.data.corpora import sample_corpora as corpora
from w2vlab.data.corpora.packaged.apt import AptCorpus, fetch_package

TINY = AptCorpus(package="tiny-speech", folder="usr/share/tiny/wav", num_files=4)

APT_GET = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
    *--print-uris*) echo "'http://mirror/tiny.deb' tiny_1_all.deb 1000 SHA256:0" ;;
    *update*) {update} ;;
    *download*) {download} ;;
esac
"""
DPKG = """#!/bin/sh
mkdir -p "$3/usr/share/tiny/wav" && cd "$3/usr/share/tiny/wav" && {unpack}
"""
OFFLINE = (
    "echo 'W: a warning' >&2; echo 'E: Failed to fetch http://mirror/InRelease  Could not resolve' >&2; "
    "echo 'E: Some index files failed to download.' >&2; exit 100"
)


class System:
    """Puts the fake programs on PATH; each argument is the shell code of a step."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        self.bin = tmp_path / "bin"
        self.bin.mkdir()
        self.log = tmp_path / "log"
        self.log.touch()
        self.wav = write_ramp(tmp_path / "original.wav", 0.1)
        monkeypatch.setenv("PATH", f"{self.bin}:{os.environ['PATH']}")
        monkeypatch.setenv("LOG", str(self.log))

    def provides(self, update=":", download="echo package > tiny_1_all.deb", unpack=None, count=4):
        copies = "; ".join(f"cp {self.wav} {n}.wav" for n in range(count))
        for name, script in (
            ("apt-get", APT_GET.format(update=update, download=download)),
            ("dpkg", DPKG.format(unpack=unpack or copies)),
        ):
            (self.bin / name).write_text(script)
            (self.bin / name).chmod(0o755)
        return self

    @property
    def downloads(self) -> int:
        return sum(" download " in line and "--print-uris" not in line for line in self.log.read_text().splitlines())


@pytest.fixture
def system(tmp_path, monkeypatch):
    return System(tmp_path, monkeypatch).provides()


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "corpora").iterdir() if not path.name.endswith(".lock"))


def test_downloads_once(system, cache):
    folder = fetch_package(TINY, cache)
    assert sorted(path.name for path in folder.iterdir()) == ["0.wav", "1.wav", "2.wav", "3.wav"]
    assert fetch_package(TINY, cache) == folder
    assert system.downloads == 1
    assert leftovers(cache) == ["tiny-speech"]


def test_uses_separate_package_lists_and_caches(system, cache):
    fetch_package(TINY, cache)
    for line in system.log.read_text().splitlines():
        assert f"-oDir::State::Lists={cache}" in line
        assert f"-oDir::Cache={cache}" in line


def test_an_incomplete_copy_is_downloaded_again(system, cache):
    folder = fetch_package(TINY, cache)
    (folder / "0.wav").unlink()
    fetch_package(TINY, cache)
    (folder / "1.wav").write_bytes(b"")
    fetch_package(TINY, cache)
    assert system.downloads == 3
    assert TINY.is_complete(folder)


@pytest.mark.parametrize("step", ["download", "unpack"])
def test_a_killed_download_leaves_no_incomplete_corpus(system, cache, step):
    killed = f"cp {system.wav} 0.wav; echo half > tiny_1_all.deb; kill -9 $PPID"
    system.provides(**{step: killed})
    # In a separate process, because it is killed.
    process = multiprocessing.get_context("fork").Process(target=fetch_package, args=(TINY, cache))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert leftovers(cache) == ["tiny-speech.partial"]
    assert not TINY.is_complete(TINY.audio_folder(cache))
    system.provides()
    assert TINY.is_complete(fetch_package(TINY, cache))
    assert leftovers(cache) == ["tiny-speech"]


def test_concurrent_processes_download_once(system, cache):
    system.provides(download="sleep 0.3; echo package > tiny_1_all.deb")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch_package, args=(TINY, cache)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert system.downloads == 1


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (
            {"update": OFFLINE, "download": "echo 'E: Unable to locate package' >&2; exit 100"},
            "E: Failed to fetch http://mirror/InRelease  Could not resolve",
        ),
        ({"download": "echo 'E: Unable to locate package tiny-speech' >&2; exit 100"}, "E: Unable to locate package t"),
        ({"unpack": "echo 'dpkg: no space left on device' >&2; exit 2"}, "dpkg: no space left on device"),
        ({"unpack": "exit 2"}, "exit status 2"),
        ({"count": 3}, "the package does not have 4 wav files in usr/share/tiny/wav"),
    ],
)
def test_failures_name_cause_and_remedy(system, cache, broken, reason):
    system.provides(**broken)
    with pytest.raises(ValueError, match=f"^Could not download tiny-speech: {reason}") as error:
        fetch_package(TINY, cache)
    assert str(error.value).endswith("Check the network, or give a folder of audio with --data.corpus=FOLDER.")
    assert leftovers(cache) == []
    system.provides()
    assert TINY.is_complete(fetch_package(TINY, cache))


def test_partly_failed_package_lists_are_ignored_if_the_package_is_found(system, cache):
    system.provides(update=OFFLINE)
    assert TINY.is_complete(fetch_package(TINY, cache))


def test_cache_that_cannot_be_written(system, tmp_path):
    (tmp_path / "file").touch()
    message = (
        r"^`cache_dir` must be writable, but .*file/cache/corpora is not \(Not a directory\); "
        r"choose another one with --data\.cache_dir or W2VLAB_CACHE\.$"
    )
    with pytest.raises(ValueError, match=message):
        fetch_package(TINY, tmp_path / "file" / "cache")


def test_cache_mounted_read_only(system, cache, monkeypatch):
    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(ValueError, match=r"must be writable, but .* is not \(Read-only file system\)"):
        fetch_package(TINY, cache)


def test_a_complete_copy_in_a_read_only_cache_is_used(system, cache, monkeypatch):
    folder = fetch_package(TINY, cache)
    monkeypatch.setattr(
        "w2vlab.data.corpora.packaged.apt.make_writable", lambda _: pytest.fail("nothing has to be written")
    )
    assert fetch_package(TINY, cache) == folder


@pytest.fixture
def without_apt(tmp_path, monkeypatch):
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def test_festvox_without_apt(without_apt, cache):
    with pytest.raises(
        ValueError, match=r"^`corpus` 'festvox-ru' needs apt-get and dpkg .*--data.corpus=mini_librispeech"
    ):
        corpora.fetch("festvox-ru", cache)


def test_sample_is_festvox_with_apt(system, cache, monkeypatch, caplog):
    monkeypatch.setattr(corpora, "FESTVOX_RU", TINY)
    caplog.set_level("INFO")
    assert corpora.fetch("sample", cache) == corpora.locate("sample", cache) == TINY.audio_folder(cache)
    assert "The sample corpus of this system is tiny-speech." in caplog.text


def test_a_downloaded_sample_corpus_is_used_without_apt(system, cache, monkeypatch, request):
    monkeypatch.setattr(corpora, "FESTVOX_RU", TINY)
    folder = corpora.fetch("sample", cache)
    request.getfixturevalue("without_apt")
    assert corpora.fetch("sample", cache) == folder
