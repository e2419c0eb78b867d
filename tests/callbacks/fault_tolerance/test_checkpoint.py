"""Checkpoints are written atomically, and read only if they are intact."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback

from tests.callbacks.test_callbacks import Rising, run
from w2vlab.callbacks import RunCheckpoint
from w2vlab.callbacks.fault_tolerance.atomic_io import AtomicCheckpointIO
from w2vlab.callbacks.fault_tolerance.stopping import Stopped
from w2vlab.modules.checkpoints.loading import read_checkpoint


def content(number: int) -> dict[str, Any]:
    return {"state_dict": {"weight": torch.full((1000,), float(number))}, "global_step": number}


def step(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def flip_a_bit(path: Path) -> None:
    """In the middle of a tensor, which PyTorch's reader does not check."""
    data = bytearray(path.read_bytes())
    place = data.index(torch.full((100,), 1.0).numpy().tobytes())
    data[place + 50] ^= 1
    path.write_bytes(data)


class DiskFull:
    """A file on a disk with a few free bytes."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, data: Any) -> int:
        self.file.write(bytes(data)[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> DiskFull:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of files that cannot be written, because the disk is full."""
    names: set[str] = set()
    real = Path.open

    def opened(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = real(path, mode, *arguments, **options)
        return DiskFull(file) if "w" in mode and any(name in path.name for name in names) else file

    monkeypatch.setattr(Path, "open", opened)
    return names


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, disk: set[str], caplog: pytest.LogCaptureFixture) -> None:
    writer = AtomicCheckpointIO()
    path = tmp_path / "folder" / "last.ckpt"
    writer.save_checkpoint(content(1), path)
    disk.add("last.ckpt")
    writer.save_checkpoint(content(2), path)
    assert writer.failure is not None
    assert writer.failure.errno == errno.ENOSPC
    assert f"{path} could not be written" in caplog.text
    assert "No space left on device" in caplog.text
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert step(path) == 1
    disk.clear()
    writer.save_checkpoint(content(3), path)
    assert writer.failure is None
    assert {file.name: step(file) for file in path.parent.iterdir()} == {"last.ckpt": 3, "last-previous.ckpt": 1}


def test_there_is_a_last_checkpoint_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a process is killed between any two changes of the folder; every file was synced before."""
    path = tmp_path / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint(content(1), path)
    seen: list[str] = []
    for name in ("replace", "link", "fsync"):
        real = getattr(os, name)

        def watched(*arguments: Any, name: str = name, real: Any = real) -> Any:
            seen.append(name)
            assert step(path) in (1, 2)
            result = real(*arguments)
            assert step(path) in (1, 2)
            return result

        monkeypatch.setattr(os, name, watched)
    writer.save_checkpoint(content(2), path)
    assert seen == ["fsync", "link", "replace", "replace", "fsync"]


def test_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", link)
    writer = AtomicCheckpointIO()
    for number in (1, 2):
        writer.save_checkpoint(content(number), tmp_path / "last.ckpt")
    assert {file.name: step(file) for file in tmp_path.iterdir()} == {"last.ckpt": 2, "last-previous.ckpt": 1}


def test_full_disk_does_not_end_a_run(tmp_path: Path, disk: set[str], caplog: pytest.LogCaptureFixture) -> None:
    """The best checkpoint so far is kept while the disk is full, and a new one is saved as soon as there is space."""
    checkpoint = RunCheckpoint(monitor="val/loss/total", mode="max", filename="{step}", auto_insert_metric_name=False)
    found: dict[int, tuple[set[str], str | None]] = {}

    class Space(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            names = {path.name for path in (tmp_path / "checkpoints").glob("*")}
            found[trainer.global_step] = names, checkpoint.unsaved
            disk.clear()
            if trainer.current_epoch in (1, 3):
                disk.add("ckpt")

    trainer = run(tmp_path, 5, callbacks=[checkpoint, Space()])
    assert trainer.global_step == 50
    assert found[20][0] == {"last.ckpt", "10.ckpt"}
    assert "No space left" in str(found[20][1])
    assert found[30] == ({"last.ckpt", "last-previous.ckpt", "30.ckpt"}, None)
    assert found[40][0] == found[30][0]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        "last.ckpt",
        "last-previous.ckpt",
        "50.ckpt",
    }
    assert step(tmp_path / "checkpoints" / "last.ckpt") == 50
    assert Path(checkpoint.best_model_path).name == "50.ckpt"
    assert caplog.text.count("could not be written") >= 2


def test_last_is_written_at_its_interval(tmp_path: Path) -> None:
    written = {}
    watch = LambdaCallback(
        on_train_batch_start=lambda trainer, *_: written.update(
            {trainer.global_step: step(path) if (path := tmp_path / "checkpoints" / "last.ckpt").exists() else 0}
        )
    )
    run(tmp_path, 1, callbacks=[RunCheckpoint(every=4), watch])
    assert written == {**dict.fromkeys(range(4), 0), **dict.fromkeys(range(4, 8), 4), 8: 8, 9: 8}
    with pytest.raises(ValueError, match="`every` must be at least 1, but is 0"):
        RunCheckpoint(every=0)


class Score(Callback):
    def __init__(self, score: float) -> None:
        self.score = score

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.log("score", self.score)


@pytest.mark.parametrize("kept", [True, False])
def test_best_is_the_best_of_all_folders(kept: bool, tmp_path: Path) -> None:
    """As long as its file exists, which is kept when a better checkpoint is saved."""
    folders = [tmp_path / name for name in ("first", "second", "third")]
    before = None
    found = []
    for epochs, (folder, score) in enumerate(zip(folders, (1.0, 9.0, 0.5), strict=True), 1):
        checkpoint = RunCheckpoint(monitor="score", dirpath=folder, filename="best")
        run(tmp_path, epochs, before, callbacks=[Score(score), checkpoint], num_sanity_val_steps=0)
        found.append((Path(checkpoint.best_model_path).parent.name, float(checkpoint.best_model_score)))
        assert checkpoint.kth_best_model_path == checkpoint.best_model_path
        before = folder / "last.ckpt"
        if not kept:
            (folder / "best.ckpt").unlink()
    assert found == [("first", 1.0), ("first", 1.0) if kept else ("second", 9.0), ("third", 0.5)]
    assert [(folder / "best.ckpt").exists() for folder in folders] == [kept, False, kept]


def test_save_top_k_can_be_lowered_at_a_resume(tmp_path: Path) -> None:
    checkpoint = RunCheckpoint(monitor="val/loss/total", dirpath=tmp_path, save_top_k=3, filename="{step}")
    run(tmp_path, 3, callbacks=[checkpoint])
    assert len(checkpoint.best_k_models) == 3
    checkpoint = RunCheckpoint(monitor="val/loss/total", dirpath=tmp_path, save_top_k=2, filename="{step}")
    run(tmp_path, 4, tmp_path / "last.ckpt", callbacks=[checkpoint])
    assert [Path(path).name for path in checkpoint.best_k_models] == ["step=10.ckpt", "step=20.ckpt"]


def test_temporary_files_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    run(tmp_path, 1, callbacks=[RunCheckpoint(dirpath=tmp_path / "before")])
    left = [tmp_path / folder / "last.ckpt.unfinished" for folder in ("before", "now", "other")]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    run(tmp_path, 2, tmp_path / "before" / "last.ckpt", callbacks=[RunCheckpoint(dirpath=tmp_path / "now")])
    assert [path.exists() for path in left] == [False, False, True]


def test_an_address_as_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`dirpath` must be a folder on .* disk, but is memory://bucket/run\. "):
        run(tmp_path, 1, callbacks=[RunCheckpoint(dirpath="memory://bucket/run")])


def test_a_configured_checkpoint_io_is_kept(tmp_path: Path) -> None:
    class Own(TorchCheckpointIO):
        pass

    own = Own()
    trainer = run(tmp_path, 1, callbacks=[RunCheckpoint()], plugins=[own])
    assert trainer.strategy.checkpoint_io is own
    assert step(tmp_path / "checkpoints" / "last.ckpt") == 10


class Fail(Callback):
    """Raises at a hook."""

    def __init__(self, hook: str, error: BaseException) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise error

        setattr(self, hook, fail)


@pytest.mark.parametrize(
    "failure",
    [
        Fail("on_fit_start", ValueError()),
        Fail("on_train_start", Stopped(15)),
        Fail("on_train_batch_start", Stopped(15)),
        Fail("on_validation_start", ValueError()),  # of the sanity check
        Fail("on_before_zero_grad", ValueError()),
    ],
    ids=["setup", "start", "first batch", "sanity check", "first update"],
)
def test_a_failed_start_keeps_the_last_checkpoint(failure: Fail, tmp_path: Path) -> None:
    run(tmp_path, 1, callbacks=[RunCheckpoint()], max_steps=3)
    last = tmp_path / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    for ckpt_path in (last, None):  # a resumed run, and a new run in the same folder
        with pytest.raises((ValueError, Stopped)):
            run(tmp_path, 2, ckpt_path, callbacks=[failure, RunCheckpoint()], num_sanity_val_steps=1)
    assert last.read_bytes() == before
    assert len(list(last.parent.glob("last*"))) == 1


def test_error_within_an_optimizer_step_is_not_saved(tmp_path: Path) -> None:
    """During an optimiser step some weights may have changed and others not; after it, the state is consistent."""

    class HalfStep(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            super().step(closure)
            if model.trainer.global_step == 2:
                raise ValueError("half")

    class Model(Rising):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return HalfStep(self.parameters(), lr=0.1)

    model = Model()
    trainer = Trainer(
        default_root_dir=tmp_path, callbacks=[RunCheckpoint(every=1)], logger=False, accelerator="cpu", max_epochs=1
    )
    with pytest.raises(ValueError, match=r"^half$"):
        trainer.fit(model, torch.utils.data.DataLoader(torch.ones(10, 3)))
    assert step(tmp_path / "checkpoints" / "last.ckpt") == 2


def test_damage_that_pytorch_does_not_detect_is_detected(tmp_path: Path) -> None:
    writer = AtomicCheckpointIO()
    last = tmp_path / "last.ckpt"
    for number in (2, 1):
        writer.save_checkpoint(content(number), last)
    flip_a_bit(last)
    assert torch.load(last, weights_only=True)
    with pytest.raises(ValueError, match=r"cannot be read \(the checksum of .* does not match\).* one, .*-previous"):
        read_checkpoint(last)


def test_config_is_read_without_the_weights(tmp_path: Path) -> None:
    """64 MiB of zeros, of which no page is read."""
    path = tmp_path / "large.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(2**24)}, "w2vlab_config": {"seed": 1}}, path)
    before = resident()
    checkpoint = read_checkpoint(path, check=False)
    assert checkpoint["w2vlab_config"] == {"seed": 1}
    assert resident() - before < 2**25


def resident() -> int:
    """Bytes of memory in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
