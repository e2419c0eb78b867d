"""The folder of an encoding: what is taken for an earlier encoding, and what for the files of others."""

from pathlib import Path

import pytest

from w2vlab.callbacks.fault_tolerance.run_lock import LOCK_NAME
from w2vlab.extraction.encoding.folder import EncodingFolder

IDENTITY = {"what": "codes", "data": "corpus"}


def test_a_process_that_was_killed_at_its_start_leaves_a_folder_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).touch()
    (tmp_path / ".encode").mkdir()
    assert EncodingFolder(tmp_path).open(IDENTITY) is None


def test_files_of_others_are_not_mixed_with_an_encoding(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"`out` must be a new or empty folder, .* has notes\.txt"):
        EncodingFolder(tmp_path).open(IDENTITY)


def test_another_encoding_is_refused_by_the_option_that_differs(tmp_path: Path) -> None:
    folder = EncodingFolder(tmp_path)
    assert folder.open(IDENTITY) is None
    with pytest.raises(ValueError, match=r"was begun with what codes \(now units\)"):
        EncodingFolder(tmp_path).open({**IDENTITY, "what": "units"})
