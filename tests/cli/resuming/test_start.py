"""The checkpoint from which a run resumes: never that of another run, never a damaged one, never none if one exists."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from w2vlab.cli.resuming.resume import find_start, log_if_complete
from w2vlab.cli.resuming.run_roots import RunRoots, recorded_root
from w2vlab.modules.checkpoints.loading import why_unusable

STATE: dict[str, Any] = {"loops": {}, "optimizer_states": [], "lr_schedulers": [], "pytorch-lightning_version": "2.6"}


def write(path: Path, update: int, **content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {"weight": torch.full((500,), 1.0)}, "global_step": update, **STATE, **content}, path)
    return path


def make_run(root: Path, name: str = "w2vlab/version_0", given: Path | None = None, **updates: int) -> Path:
    """Makes the folder of a run below `root`, whose record may have another root folder."""
    folder = root / name
    for file, update in updates.items():
        write(folder / "checkpoints" / f"{file.replace('_', '-')}.ckpt", update)
    record = {"command": [], "continued": [], "folder": str(root), "root": str(given or root)}
    (folder / "run.json").write_text(json.dumps(record))
    return folder / "checkpoints"


def chosen(root: Path, ckpt_path: str = "last", training: bool = True) -> Path | None:
    start = find_start(ckpt_path, RunRoots(root, root), training)
    return None if start is None else start.checkpoint


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((100,), 1.0).numpy().tobytes()) + 50] ^= 1
    path.write_bytes(data)


def encrypt(path: Path) -> None:
    """Sets the bit of an entry that needs a password, in the table at the end."""
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def compress(path: Path) -> None:
    """Says that an entry is compressed, which ends in `zlib.error`."""
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 10] = 8
    path.write_bytes(data)


def call_it_a_folder(path: Path) -> None:
    """One bit, which passes all checksums, and of which PyTorch makes tensors of uninitialised memory."""
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 38] |= 0x10
    path.write_bytes(data)


def rename_entry(path: Path) -> None:
    """Passes all checksums, and PyTorch finds no pickle."""
    path.write_bytes(path.read_bytes().replace(b"data.pkl", b"data.pkm"))


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Changes the pickle, with a checksum that is right."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, change(content) if name.endswith("data.pkl") else content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


class MakesFolder:
    """What unpickling would make a folder by."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "bit": (flip, "damaged: the checksum of .* does not match"),
    "cut": (cut, "damaged: its table of contents.* truncated"),
    "encrypted": (encrypt, "damaged: the entry of .* is invalid"),
    "compressed": (compress, "damaged: the entry of .* is invalid"),
    "entry that is a folder": (call_it_a_folder, "damaged: the entry of .* is invalid"),
    "no pickle": (rename_entry, "damaged: .*data.pkl"),
    "broken pickle": (lambda path: rewrite(path, lambda data: data[:40] + b"\xff" + data[41:]), "damaged: "),
    "empty": (lambda path: path.write_bytes(b""), "damaged: it is not in the zip format"),
    "text": (lambda path: path.write_text("weights\n" * 99), "damaged: it is not in the zip format"),
    "foreign": (lambda path: torch.save([1, 2], path), "not a checkpoint of a training run: it has no `state_dict`"),
    "weights": (lambda path: torch.save({"state_dict": {}}, path), "without training state: it has no"),
    "folder": (replace_by_folder, "damaged: it is not a regular file"),
    "pipe": (replace_by_pipe, "damaged: it is not a regular file"),
    "loop": (replace_by_loop, "damaged: it is missing"),
    "unsafe": (
        lambda path: torch.save({"state_dict": {}, "x": MakesFolder(path.with_name("made"))}, path),
        r"refused: loading it would run \w+\.mkdir",
    ),
    "unsafe pickle": (
        lambda path: path.write_bytes(pickle.dumps(MakesFolder(path.with_name("made")))),
        r"refused: loading it would run \w+\.mkdir",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_loaded_is_replaced_by_the_one_before_it(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line has the file, the reason and the fallback, for any error, even if PyTorch does not notice it."""
    caplog.set_level(logging.INFO)
    folder = make_run(tmp_path, last=6, last_previous=5)
    last, previous = folder / "last.ckpt", folder / "last-previous.ckpt"
    spoil, why = DAMAGES[damage]
    spoil(last)
    for ckpt_path in ("last", str(last)):
        caplog.clear()
        assert chosen(tmp_path, ckpt_path) == previous
        (warning,) = (entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING)
        assert warning.startswith(f"{last} is ")
        assert re.search(why, warning), warning
        assert warning.endswith(f" Using {previous} in its place.")
        assert f"Resuming from {previous} (update 5)." in caplog.messages
    assert not (folder / "made").exists()
    if damage.startswith("unsafe"):
        assert "damaged" not in warning
        assert "truncated" not in warning


def test_the_newest_other_checkpoint_is_used_if_both_last_ones_are_damaged(tmp_path: Path) -> None:
    older = make_run(tmp_path, "w2vlab/version_0", last=9)
    os.utime(older / "last.ckpt", (1, 1))
    folder = make_run(tmp_path, "w2vlab/version_1", last=8, last_previous=7, update_6=6, update_4=4)
    for name in ("last", "last-previous"):
        flip(folder / f"{name}.ckpt")
    os.utime(folder / "update-4.ckpt")
    assert chosen(tmp_path) == folder / "update-6.ckpt"
    cut(folder / "update-6.ckpt")
    assert chosen(tmp_path) == folder / "update-4.ckpt"
    flip(folder / "update-4.ckpt")
    # Not the other run's, and not from the beginning.
    for ckpt_path in ("last", str(folder / "last.ckpt")):
        with pytest.raises(
            ValueError, match=r"^`ckpt_path` must .* none can: .*last\.ckpt is damaged.* leave --ckpt_path"
        ):
            chosen(tmp_path, ckpt_path)


def test_a_folder_that_is_not_a_run_may_contain_other_models(tmp_path: Path) -> None:
    last = write(tmp_path / "last.ckpt", 3)
    write(tmp_path / "another_model.ckpt", 9)
    flip(last)
    with pytest.raises(ValueError, match="none can"):
        chosen(tmp_path, str(last))


def test_a_checkpoint_that_was_named_is_that_one_or_an_error(tmp_path: Path) -> None:
    folder = make_run(tmp_path, last=6, update_4=4)
    assert chosen(tmp_path, str(folder / "update-4.ckpt")) == folder / "update-4.ckpt"
    flip(folder / "update-4.ckpt")
    with pytest.raises(
        ValueError, match=r"`ckpt_path` must be a whole checkpoint, but .*update-4\.ckpt cannot be read"
    ):
        chosen(tmp_path, str(folder / "update-4.ckpt"))
    for nothing in ("best", str(tmp_path / "no.ckpt"), str(folder)):
        with pytest.raises(ValueError, match=r"`ckpt_path` must be 'last' or a checkpoint file, but is "):
            chosen(tmp_path, nothing)


def test_a_run_that_was_killed_between_two_names_of_its_checkpoint(tmp_path: Path) -> None:
    """On a file system without links."""
    folder = make_run(tmp_path, last_previous=5)
    for ckpt_path in ("last", str(folder / "last.ckpt")):
        assert chosen(tmp_path, ckpt_path) == folder / "last-previous.ckpt"


def test_weights_alone_can_be_validated(tmp_path: Path) -> None:
    folder = make_run(tmp_path, last=6, last_previous=5)
    DAMAGES["weights"][0](folder / "last.ckpt")
    assert chosen(tmp_path, training=False) == folder / "last.ckpt"
    assert why_unusable(folder / "last.ckpt") is not None


def test_last_is_of_this_root_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither of one beside it, nor of one inside it, such as a job's, nor of one in a folder that loggers share."""
    caplog.set_level(logging.INFO)
    first, second, shared = (tmp_path / name for name in ("runs/job-1", "runs/job-2", "logs"))
    of_first = make_run(first, last=3)
    make_run(shared, "w2vlab/of_first", given=first, last=5)
    for root, logs in ((second, second), (second, shared), (tmp_path / "runs", tmp_path / "runs")):
        assert find_start("last", RunRoots(root, logs), training=True) is None
        assert any(f"There is no last.ckpt below {root}" in message for message in caplog.messages)
        with pytest.raises(FileNotFoundError, match=r"`ckpt_path` is 'last', but there is no last\.ckpt below"):
            find_start("last", RunRoots(root, logs), training=False)
        caplog.clear()
    assert chosen(first) == of_first / "last.ckpt"
    start = find_start("last", RunRoots(first, shared), training=True)
    assert start is not None
    assert (start.update, start.folder) == (5, shared / "w2vlab/of_first")
    # Whoever moves a root folder moves its runs.
    moved = tmp_path / "moved"
    shutil.move(first, moved)
    assert chosen(moved) == moved / "w2vlab/version_0/checkpoints/last.ckpt"


def test_last_is_in_the_folder_that_checkpoints_were_given(tmp_path: Path) -> None:
    root, folder = tmp_path / "runs", tmp_path / "elsewhere"
    make_run(root, last=3)
    assert find_start("last", RunRoots(root, root, folder), training=True) is None
    own = write(folder / "last.ckpt", 7, callbacks={"RunReport": {"folder": str(root / "w2vlab/version_0")}})
    start = find_start("last", RunRoots(root, root, folder), training=True)
    assert start is not None
    assert (start.checkpoint, start.folder) == (own, root / "w2vlab/version_0")


@pytest.mark.parametrize(("max_updates", "complete"), [(-1, False), (3, False), (2, True), (1, True)])
def test_a_checkpoint_with_all_updates_is_logged(
    max_updates: int, complete: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path, last=2)
    start = find_start("last", RunRoots(tmp_path, tmp_path), training=True)
    assert start is not None
    caplog.set_level(logging.INFO)
    log_if_complete(start, max_updates)
    said = f"No update is left: the checkpoint has 2, and trainer.max_steps is {max_updates}."
    assert any(message.startswith(said) for message in caplog.messages) == complete


def test_it_logs_the_number_of_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for age, name in enumerate(("w2vlab/version_0", "w2vlab/version_1")):
        folder = make_run(tmp_path, name, last=age + 1)
        os.utime(folder / "last.ckpt", (age, age))
    assert chosen(tmp_path) == folder / "last.ckpt"
    assert (
        f"Resuming from {folder / 'last.ckpt'} (update 2), of the newest of 2 runs below {tmp_path}." in caplog.messages
    )


@pytest.mark.parametrize("record", ["[" * 100_000, "{", '{"continued": 3}', '{"root": 3}'])
def test_a_record_that_cannot_be_read_names_no_root_folder(record: str, tmp_path: Path) -> None:
    """It may be of anybody's run below the root folder, and must not end the search for this one's."""
    (tmp_path / "run.json").write_text(record)
    assert recorded_root(tmp_path) is None
