"""Reader of runs from the files and the server of Weights & Biases.

The package `wandb` has no public reader of its `.wandb` files. They are logs in the format of LevelDB: a file header of
7 bytes, then blocks of 32 KiB with fragments of records, each after a checksum (4 bytes), its length (2) and type (1).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from w2vlab.reports.run import Cost, Found, RunData, is_number, split_rows
from w2vlab.utils.messages import one_line
from w2vlab.utils.options import flat
from w2vlab.utils.plain_data import MEBIBYTE, parse_json

SCHEME = "wandb:"

_BLOCK, _HEADER, _MAGIC = 32 * 1024, 7, b":W&B"
_WHOLE, _LAST = 1, 4

_MOST_BYTES = 1024 * MEBIBYTE
_MOST_UPDATES, _HIGHEST_COST = 1e15, 1e12

_STEP = "trainer/global_step"
_PEAK_MEMORY = "train/throughput/peak_memory_gib"


def find_wandb_files(folder: Path) -> list[Path]:
    """Returns the `.wandb` files of offline and online runs in or below a folder."""
    found = [
        *folder.glob("run-*.wandb"),
        *folder.rglob("offline-run-*/run-*.wandb"),
        *folder.rglob("run-*/run-*.wandb"),
    ]
    return sorted(
        {path.resolve(): path for path in found if "evaluation" not in path.relative_to(folder).parts}.values()
    )


def read_wandb_files(paths: Iterable[Path], known: set[str], found: Found) -> None:
    """Adds the runs of `.wandb` files, without those whose run folders were read.

    Args:
        paths: The files.
        known: Names of run folders that were read; a run folder is named by the W&B id of its run.
        found: The runs are added to it.
    """
    for path in paths:
        if path.stem.removeprefix("run-") in known:
            continue
        try:
            _read_file(path, found)
        except Exception as problem:  # protobuf, JSON and conversions raise various errors for a damaged file
            text = f"{path} is damaged ({type(problem).__name__}: {problem}): skipped."
            found.problems.append(one_line(text, 400))


def _read_file(path: Path, found: Found) -> None:
    from wandb.proto import wandb_internal_pb2  # takes a second

    make_record: Any = wandb_internal_pb2.Record  # type: ignore[attr-defined]  # created at import

    config: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    code, started = None, ""
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ValueError(f"it has {size / MEBIBYTE:,.0f} MiB, and more than {_MOST_BYTES // MEBIBYTE} are not read")
    data = path.read_bytes()
    damaged = False
    for content in _records(data):
        record = make_record()
        if content is None:
            damaged = True
            break
        record.ParseFromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            rows.append({_key(item): parse_json(item.value_json) for item in record.history.item})
        elif kind in ("run", "config"):
            update = record.run.config if kind == "run" else record.config
            config.update({_key(item): parse_json(item.value_json) for item in update.update})
            if kind == "run":
                started = datetime.fromtimestamp(record.run.start_time.seconds, UTC).isoformat()
        elif kind == "exit":
            code = record.exit.exit_code
    if not rows:
        reason = "is damaged" if damaged else "has no metrics"
        found.problems.append(one_line(f"{path} {reason}: skipped."))
        return
    if damaged:
        found.problems.append(one_line(f"{path} is damaged after its first {len(rows)} rows, which are used."))
    run = _make_run(str(path.parent), config, rows, started)
    run.finished = code == 0
    run.ended = "" if run.finished else "running, or killed" if code is None else f"failed with status {code}"
    found.runs.append(run)


def _records(data: bytes) -> Iterator[bytes | None]:
    """Yields records; None as the last one if the file is damaged or truncated."""
    if not data.startswith(_MAGIC):
        yield None
        return
    position, parts = _HEADER, list[bytes]()
    while position + _HEADER <= len(data):
        rest_of_block = _BLOCK - position % _BLOCK
        if rest_of_block < _HEADER:  # too short for a fragment, so the next one starts with the next block
            position += rest_of_block
            continue
        checksum, length, fragment_type = struct.unpack("<IHB", data[position : position + _HEADER])
        position += _HEADER
        part = data[position : position + length]
        if len(part) < length or zlib.crc32(part, zlib.crc32(bytes([fragment_type]))) != checksum:
            yield None
            return
        parts.append(part)
        position += length
        if fragment_type in (_WHOLE, _LAST):
            yield b"".join(parts)
            parts = []
    if parts or position < len(data):
        yield None


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def read_wandb_server(address: str, found: Found, api: Any = None) -> None:
    """Adds runs from a server.

    Args:
        address: `ENTITY/PROJECT`, optionally with `/GROUP` or `/RUN`.
        found: The runs are added to it.
        api: A `wandb.Api`; created if None.

    Raises:
        ValueError: The address is invalid, it has no runs, or the server cannot be reached.
    """
    pieces = address.split("/")
    if len(pieces) not in (2, 3) or not all(pieces):
        raise ValueError(
            f"`RUN` must be {SCHEME}ENTITY/PROJECT, optionally with /GROUP or /RUN, but is {SCHEME}{address}."
        )
    project = "/".join(pieces[:2])
    try:
        if api is None:
            import wandb

            api = wandb.Api()
        runs = list(_query_runs(api, project, *pieces[2:]))
    except Exception as problem:  # the libraries below raise various errors for network, account and server
        reason = one_line(f"{type(problem).__name__}: {problem}", 400)
        raise ValueError(f"{SCHEME}{address} cannot be read: {reason}") from None
    if not runs:
        raise ValueError(f"{SCHEME}{address} has no runs.")
    for run in runs:
        source = f"{SCHEME}{project}/{run.id}"
        try:
            data = _make_run(source, dict(run.config), list(run.scan_history()), str(run.created_at or ""))
        except Exception as problem:  # the histories of other runs may be readable
            text = f"{source} cannot be read ({type(problem).__name__}: {problem}): skipped."
            found.problems.append(one_line(text, 400))
            continue
        data.name = str(run.name or run.id)
        data.finished = run.state == "finished"
        data.ended = "" if data.finished else one_line(str(run.state), 40)
        found.runs.append(data)


def _query_runs(api: Any, project: str, group_or_run: str | None = None) -> Iterable[Any]:
    if group_or_run is None:
        return api.runs(project)  # type: ignore[no-any-return]
    grouped = list(api.runs(project, filters={"group": group_or_run}))
    return grouped or [api.run(f"{project}/{group_or_run}")]


def _update_number(step: Any) -> float:
    """Returns the number of an update from Lightning's step, which counts from 0.

    Raises:
        ValueError: It is not a valid step.
    """
    if not isinstance(step, int | float) or isinstance(step, bool) or not -1 <= step <= _MOST_UPDATES:
        raise ValueError(f"`{_STEP}` must be the number of an update, but is {step!r}")
    return step + 1


def _make_run(source: str, config: dict[str, Any], rows: Iterable[Mapping[str, Any]], started: str) -> RunData:
    kept, seconds = [], 0.0
    before_training = config.get("validate_first") is True
    for row in rows:
        runtime = float(row.get("_runtime") or 0)
        seconds = max(seconds, runtime if 0 <= runtime < _HIGHEST_COST else 0.0)
        values = {
            name: value for name, value in row.items() if name.startswith(("train/", "val/")) and is_number(value)
        }
        if values and row.get(_STEP) is not None:
            update = _update_number(row[_STEP])
            if before_training and update == 1 and any(name.startswith("val/") for name in values):
                before_training, update = False, 0
            kept.append({"update": update, **values})
    train, validation = split_rows(kept)
    options = {name: value for name, value in flat("", config) if not name.startswith("_wandb")}
    peaks = [row[_PEAK_MEMORY] for row in train if _PEAK_MEMORY in row]
    updates = max((rows[-1]["update"] for rows in (train, validation) if rows), default=None)
    return RunData(
        name=source,
        source=source,
        options=options,
        train=train,
        validation=validation,
        cost=Cost(seconds=seconds, updates=updates, peak_memory_gib=max(peaks, default=None)),
        started=started,
    )
