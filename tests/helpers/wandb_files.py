"""Reads back what an offline run of Weights & Biases logged; its own reader is not public any more.

A `.wandb` file is a log in the layout of LevelDB: 7 bytes of file header, then blocks of 32 KiB with pieces of records,
each after a checksum (4 bytes), its length (2) and its type (1: whole, 2: first, 3: middle, 4: last).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32 * 1024
HEADER = 7


def records(path: Path) -> Iterator[Any]:
    data = path.read_bytes()
    assert data.startswith(b":W&B")
    position, whole = HEADER, b""
    while position + HEADER <= len(data):
        room = BLOCK - position % BLOCK
        if room < HEADER:  # too little for a piece: the next one begins with the next block
            position += room
            continue
        length, piece = struct.unpack("<HB", data[position + 4 : position + HEADER])
        position += HEADER
        whole += data[position : position + length]
        position += length
        if piece in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def run_file(root: Path) -> Path:
    """Returns the file of the only run below `root`."""
    (path,) = root.glob("wandb/offline-run-*/run-*.wandb")
    return path


def history(root: Path) -> list[dict[str, Any]]:
    """Returns the logged rows."""
    rows = []
    for record in records(run_file(root)):
        if record.WhichOneof("record_type") == "history":
            rows.append({_key(item): json.loads(item.value_json) for item in record.history.item})
    return rows


def config(root: Path) -> dict[str, Any]:
    """Returns the hyper-parameters."""
    found: dict[str, Any] = {}
    for record in records(run_file(root)):
        if record.WhichOneof("record_type") in ("config", "run"):
            update = record.config if record.HasField("config") else record.run.config
            found.update({_key(item): json.loads(item.value_json) for item in update.update})
    return found


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def group_and_name(path: Path) -> tuple[str, str]:
    """Returns in which group a run is, and what it is called."""
    (run,) = (record.run for record in records(path) if record.WhichOneof("record_type") == "run")
    return run.run_group, run.display_name
