"""Folders are listed in the order of the ids, each folder once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from w2vlab.data.corpora.listing import Entry, iter_ids, list_corpus, list_entries
from w2vlab.data.corpora.tally import Tally


def make_tree(root: Path) -> list[str]:
    """Creates files whose names sort differently by folder and as whole paths; returns the ids that are expected."""
    random = np.random.default_rng(0)
    parts = ["a", "a-", "a.wav", "a0", "A", "b c", "b", "ä", "\U0001f600", "z~", ".hidden"]
    names = {"/".join(random.choice(parts, size=random.integers(0, 4))) for _ in range(60)}
    expected = []
    for name in names:
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("x.wav", "a.FLAC", "a!.mp3", ".wav", "a.", "readme.txt", "-.opus"):
            (folder / file).touch()
    for path in root.rglob("*"):
        if path.is_file() and path.suffix.lower() in (".wav", ".flac", ".mp3", ".opus"):
            expected.append(path.relative_to(root).as_posix())
    return sorted(expected)


def test_a_folder_is_listed_in_the_order_of_the_ids(tmp_path: Path) -> None:
    expected = make_tree(tmp_path)
    assert len(expected) > 100
    skipped = Tally()
    assert [entry.id for entry in list_entries(tmp_path, skipped)] == expected
    assert list(iter_ids(tmp_path)) == expected
    listed = list_corpus(tmp_path, skipped)
    assert [entry.id for chunk in listed.chunks for entry in chunk] == expected
    assert listed.total == len(expected)
    assert all(entry.paths == (tmp_path / entry.id,) for chunk in listed.chunks for entry in chunk)
    assert not skipped


def test_the_fingerprint_is_that_of_earlier_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests in the cache stay valid."""
    (tmp_path / "corpus").mkdir()
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.wav", "it's.flac", "ü.mp3", "x.m4a")):
        (tmp_path / "corpus" / name).write_bytes(b"0" * number)
        os.utime(tmp_path / "corpus" / name, ns=(number, number))
    assert list_corpus(Path("corpus"), Tally()).fingerprint == "4a4f352abfb57fc3379771d76c439962"


def test_a_changed_file_changes_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    found = {list_corpus(tmp_path, Tally()).fingerprint for _ in range(2)}
    assert len(found) == 1
    os.utime(tmp_path / "a.wav", ns=(1, 1))
    found.add(list_corpus(tmp_path, Tally()).fingerprint)
    (tmp_path / "a.wav").write_bytes(b"1")
    os.utime(tmp_path / "a.wav", ns=(1, 1))
    found.add(list_corpus(tmp_path, Tally()).fingerprint)
    (tmp_path / "b.wav").symlink_to("nowhere")
    found.add(list_corpus(tmp_path, Tally()).fingerprint)
    assert len(found) == 4


def test_each_file_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (tmp_path / f"{number}.wav").touch()
    looked_at = []
    stat = os.stat
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda path, **options: looked_at.append(str(path)) or stat(path, **options))
        list_corpus(tmp_path, Tally())
    files = [path for path in looked_at if path.endswith(".wav")]
    assert files == [str(tmp_path / f"{number}.wav") for number in range(5)]


def test_links_and_loops(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    (root / "b").mkdir(parents=True)
    (root / "b" / "x.wav").touch()
    (root / "a").symlink_to("b")  # the first of two names of the same folder, whatever the order on disk
    (root / "b" / "loop").symlink_to(root)
    (root / "self.wav").symlink_to("self.wav")
    (root / "broken").symlink_to("nowhere")
    (root / "parent").symlink_to("..")
    (tmp_path / "y.wav").touch()
    (root / "file.wav").symlink_to("b/x.wav")
    assert [entry.id for entry in list_entries(root, Tally())] == ["a/x.wav", "file.wav", "parent/y.wav", "self.wav"]


@pytest.mark.parametrize("listed", [list_entries, lambda *a: [e for chunk in list_corpus(*a).chunks for e in chunk]])
def test_what_cannot_be_listed_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed) -> None:
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").touch()
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")) / "b.wav").touch()
    scandir = os.scandir

    def closed(path: str) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    skipped = Tally()
    assert list(listed(tmp_path, skipped)) == [Entry("open/a.wav", (str(tmp_path / "open/a.wav"),))]
    assert skipped == Tally(
        {"folder that cannot be read": 1, "with a name that is not UTF-8": 1},
        {
            "folder that cannot be read": [str(tmp_path / "closed")],
            "with a name that is not UTF-8": [repr("\udcff/b.wav")],
        },
    )


def test_a_corpus_in_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    """Its manifest, which is in UTF-8, could not name its files."""
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    root.mkdir()
    (root / "a.wav").touch()
    with pytest.raises(ValueError, match=r"^`corpus` must be a path in UTF-8, but is '.*\\udcff'; rename"):
        list_corpus(root, Tally())


def test_a_tally_includes_another() -> None:
    one, two, whole = Tally(), Tally(), Tally()
    for number in range(10):
        reason = ("bad", "good")[number % 2]
        (one if number < 5 else two).add(reason, str(number))
        whole.add(reason, str(number))
    two.add("other", "x")
    whole.add("other", "x")
    one.include(two)
    assert one == whole
