from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from tests.data.conftest import write_ramp
from w2vlab.data.corpora import sample_corpora as corpora
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.utils.files import cache_root


@pytest.fixture
def no_apt(tmp_path, monkeypatch):
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def archive(folder: Path, part: str) -> None:
    """Writes an archive with the layout of the published one to the path that the recipe downloads to."""
    audio = write_ramp(folder / "work" / "LibriSpeech" / part / "1" / "2" / f"{part}.flac", 0.3)
    with tarfile.open(folder / f"{part}.tar.gz", "w:gz") as tar:
        tar.add(audio, arcname=audio.relative_to(folder / "work"))


def test_mini_librispeech_is_the_sample_without_apt(no_apt, cache, monkeypatch):
    fetched = []

    def download(url, filename, **_):
        fetched.append(url)
        archive(Path(filename).parent, Path(filename).name.removesuffix(".tar.gz"))

    monkeypatch.setattr("lhotse.recipes.librispeech.resumable_download", download)
    folder = corpora.fetch("sample", cache)
    assert folder == corpora.locate("sample", cache) == corpora.locate("mini_librispeech", cache)
    assert sorted(path.name for path in folder.rglob("*.flac")) == ["dev-clean-2.flac", "train-clean-5.flac"]
    assert corpora.fetch("mini_librispeech", cache) == folder
    assert len(fetched) == 2


def test_a_broken_download_of_mini_librispeech_is_repeated(cache, monkeypatch):
    monkeypatch.setattr(
        "lhotse.recipes.librispeech.resumable_download",
        lambda url, filename, **_: Path(filename).exists() or Path(filename).write_text("<html>Log in first</html>"),
    )
    for _ in range(2):
        with pytest.raises(
            ValueError,
            match=r"^Could not download mini_librispeech: the downloaded archive is incomplete\. Check the network",
        ):
            corpora.fetch("mini_librispeech", cache)
        assert not list(cache.rglob("*.tar.gz"))


def test_mini_librispeech_without_network(cache, monkeypatch):
    def no_route(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("socket.getaddrinfo", no_route)  # independent of the network and the proxies of this machine
    message = r"^Could not download mini_librispeech: .*Network is unreachable.*--data\.corpus=FOLDER\.$"
    with pytest.raises(ValueError, match=message):
        corpora.fetch("mini_librispeech", cache)


def test_paths(tmp_path, cache, monkeypatch):
    (tmp_path / "audio").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("audio", "~/audio", str(tmp_path / "audio")):
        assert corpora.fetch(name, cache) == tmp_path / "audio"
    message = r"^`corpus` must be an existing path or one of festvox-ru, .*, sample, but is 'festvox'"
    with pytest.raises(ValueError, match=message):
        corpora.fetch("festvox", cache)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("W2VLAB_CACHE", raising=False)
    assert cache_root(None) == tmp_path / ".cache" / "w2vlab"
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "chosen"))
    assert cache_root(None) == tmp_path / "chosen"
    assert cache_root(Path("~/mine")) == tmp_path / "mine"


@pytest.fixture
def without_rights(tmp_path, cache):
    """A folder and a manifest that this process may not read, even if it is that of root."""
    write_ramp(tmp_path / "closed" / "audio" / "a.wav", 0.3)
    (tmp_path / "closed" / "a.tsv").write_text(f"{tmp_path}/closed/audio\na.wav\t4800\n")
    (tmp_path / "closed").chmod(0)
    user = os.geteuid()
    if not user:
        os.seteuid(65534)
    yield tmp_path / "closed"
    os.seteuid(user)
    (tmp_path / "closed").chmod(0o755)


@pytest.mark.parametrize("name", ["audio", "a.tsv"])
def test_a_corpus_that_may_not_be_read(without_rights, cache, name):
    for read in (lambda path: corpora.fetch(str(path), cache), lambda path: prepare_manifest(path, cache)):
        with pytest.raises(
            ValueError, match=rf"^`corpus` must be readable, but {without_rights}.* is not \(Permission"
        ):
            read(without_rights / name)
