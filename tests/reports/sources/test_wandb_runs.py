"""Runs in the files of Weights & Biases, and on a fake server."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from tests.helpers.wandb_files import records
from tests.reports.made_up import config, rows, write_run
from w2vlab.reports import make_report, read_runs

BLOCK = 32 * 1024


def framed(contents: list[bytes]) -> bytes:
    """Writes records as fragments within blocks."""
    data = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
    for content in contents:
        first = True
        while True:
            room = BLOCK - len(data) % BLOCK
            if room < 7:
                data += b"\0" * room
                continue
            part, content = content[: room - 7], content[room - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not content]
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part
            first = False
            if not content:
                break
    return data


def record(kind: str, values: dict[str, Any] | None = None, **fields: Any) -> bytes:
    made = wandb_internal_pb2.Record()
    part = getattr(made, kind)
    part.SetInParent()
    items = {"history": "item", "config": "update"}.get(kind)
    for name, value in (values or {}).items():
        item = getattr(part, items).add()
        item.key = name
        item.value_json = json.dumps(value)
    for name, value in fields.items():
        setattr(part, name, value)
    return made.SerializeToString()


def logged(loss: float, padding: int = 0) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for step in (0, 1, 2):
        made.append({"trainer/global_step": step, "_runtime": 10.0 * step, "train/loss/total": loss + 1})
    made.append({"trainer/global_step": 2, "_runtime": 25.0, "val/loss/total": loss, "val/accuracy": 0.5})
    made.append({"trainer/global_step": 2, "_runtime": 26.0, "report/_type": "images", "long": "x" * padding})
    return made


def write_offline(root: Path, name: str, options: Any, loss: float, code: int | None = 0, padding: int = 0) -> Path:
    folder = root / f"offline-run-20260101_000000-{name}"
    folder.mkdir(parents=True)
    contents = [record("run", run_id=name), record("config", options)]
    contents += [record("history", row) for row in logged(loss, padding)]
    contents += [] if code is None else [record("exit", exit_code=code)]
    path = folder / f"run-{name}.wandb"
    path.write_bytes(framed(contents))
    return path


def test_the_test_files_have_the_real_format(tmp_path: Path) -> None:
    path = write_offline(tmp_path, "a", {}, 2.0, padding=3 * BLOCK)
    kinds = [found.WhichOneof("record_type") for found in records(path)]
    assert kinds == ["run", "config", *["history"] * 5, "exit"]


def test_offline_runs_are_read(tmp_path: Path) -> None:
    for seed, loss in ((1, 2.0), (2, 4.0)):
        write_offline(tmp_path / "wandb", f"r{seed}", config(seed=seed), loss, padding=BLOCK + 100 * seed)
    found = read_runs([str(tmp_path)])
    assert found.problems == []
    first, _ = found.runs
    assert (first.seed, first.finished, first.cost.seconds, first.cost.updates) == (1, True, 26.0, 3)
    assert first.options["model.quantizer"] == "w2vlab.quantizers.GumbelQuantizer"
    assert first.series("val/loss/total") == {3: 2.0}
    report = make_report(found)
    assert (report.lines[0].means[0].mean, report.num_runs) == (3.0, 2)


def test_a_validation_before_training_is_at_update_0(tmp_path: Path) -> None:
    """It is logged at the same step as a validation after the first update."""
    for name, first in (("with", True), ("without", False)):
        rows = [{"trainer/global_step": 0, "val/loss/total": loss} for loss in (5.0, 4.0)[not first :]]
        folder = tmp_path / f"offline-run-20260101_000000-{name}"
        folder.mkdir()
        contents = [record("run", run_id=name), record("config", {**config(), "validate_first": first})]
        contents += [record("history", row) for row in rows]
        (folder / f"run-{name}.wandb").write_bytes(framed(contents))
    runs = {run.source.rpartition("-")[2]: run.series("val/loss/total") for run in read_runs([str(tmp_path)]).runs}
    assert runs == {"with": {0: 5.0, 1: 4.0}, "without": {1: 4.0}}


def test_files_of_a_run_whose_folder_was_read_are_skipped(tmp_path: Path) -> None:
    write_run(tmp_path / "w2vlab" / "r1", config(), rows(2.0))
    write_offline(tmp_path / "wandb", "r1", config(), 2.0)
    assert [run.source for run in read_runs([str(tmp_path)]).runs] == [str(tmp_path / "w2vlab" / "r1")]


def test_the_latest_run_is_a_link_and_counts_once(tmp_path: Path) -> None:
    path = write_offline(tmp_path / "wandb", "r1", config(), 2.0)
    (tmp_path / "wandb" / "latest-run").symlink_to(path.parent)
    assert len(read_runs([str(tmp_path)]).runs) == 1
    assert len(read_runs([str(path.parent)]).runs) == 1


@pytest.mark.parametrize(("code", "ended"), [(None, "running, or killed"), (3, "failed with status 3")])
def test_unfinished_runs(code: int | None, ended: str, tmp_path: Path) -> None:
    write_offline(tmp_path, "r1", config(), 2.0, code)
    (run,) = read_runs([str(tmp_path)]).runs
    assert (run.finished, run.ended) == (False, ended)


def test_a_truncated_file_is_read_up_to_the_damage(tmp_path: Path) -> None:
    path = write_offline(tmp_path, "r1", config(), 2.0, padding=1000)
    data = path.read_bytes()
    path.write_bytes(data[:-300])
    found = read_runs([str(tmp_path)])
    assert found.runs[0].value("val/loss/total") == 2.0
    assert found.problems == [f"{path} is damaged after its first 4 rows, which are used."]
    data = bytearray(data)
    data[40] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"There are no runs .*run-r1.wandb is damaged: skipped"):
        read_runs([str(tmp_path)])
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"run-r1.wandb is damaged: skipped"):
        read_runs([str(tmp_path)])


class Api:
    """A fake of `wandb.Api`."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.all = [self.make("one", 1, 2.0), self.make("two", 2, 4.0, state="crashed")]

    @staticmethod
    def make(name: str, seed: int, loss: float, state: str = "finished") -> Any:
        return SimpleNamespace(
            id=name,
            name=f"{name}-name",
            state=state,
            config={**config(seed=seed), "_wandb": {"x": 1}},
            created_at="2026-01-01T00:00:00Z",
            scan_history=lambda: iter(logged(loss)),
        )

    def runs(self, path: str, filters: dict[str, Any] | None = None) -> list[Any]:
        self.asked.append((path, filters))
        if filters is None:
            return self.all
        return self.all[:1] if filters == {"group": "some"} else []

    def run(self, path: str) -> Any:
        self.asked.append(path)
        if path != "me/project/two":
            raise RuntimeError("Could not find run")
        return self.all[1]


def test_runs_of_a_server() -> None:
    api = Api()
    found = read_runs(["wandb:me/project"], api)
    assert [(run.name, run.source, run.seed) for run in found.runs] == [
        ("one-name", "wandb:me/project/one", 1),
        ("two-name", "wandb:me/project/two", 2),
    ]
    assert not [name for name in found.runs[0].options if "_wandb" in name]
    assert found.runs[0].value("val/loss/total") == 2.0
    assert "Unfinished, and not in the table: two-name (crashed)." in make_report(found).notes
    assert [run.name for run in read_runs(["wandb:me/project/some"], api).runs] == ["one-name"]
    assert [run.name for run in read_runs(["wandb:me/project/two"], api).runs] == ["two-name"]
    assert api.asked == [
        ("me/project", None),
        ("me/project", {"group": "some"}),
        ("me/project", {"group": "two"}),
        "me/project/two",
    ]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("wandb:me", r"`RUN` must be wandb:ENTITY/PROJECT, optionally with /GROUP or /RUN, but is wandb:me\."),
        ("wandb:me//x", "must be wandb:ENTITY/PROJECT"),
        ("wandb:me/project/none", "wandb:me/project/none cannot be read: RuntimeError: Could not find run"),
    ],
)
def test_invalid_addresses(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_runs([address], Api())
