"""Reading runs from the files and the server of Weights & Biases.

The package has no public reader of its `.wandb` files. They are logs in the layout of LevelDB: 7 bytes of file header,
then blocks of 32 KiB with pieces of records, each behind a checksum (4 bytes), its length (2) and which piece (1).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from w2vlab.options import flat
from w2vlab.plain_data import MEBIBYTE, parse_json
from w2vlab.reports.run import Cost, Found, RunData, in_order, is_number
from w2vlab.wording import one_line

SCHEME = "wandb:"

_BLOCK, _HEADER, _MAGIC = 32 * 1024, 7, b":W&B"
_WHOLE, _LAST = 1, 4

_MOST_BYTES = 1024 * MEBIBYTE
_MOST_UPDATES, _HIGHEST_COST = 1e15, 1e12

_STEP = "trainer/global_step"
_PEAK_MEMORY = "train/throughput/peak_memory_gib"


def run_files(folder: Path) -> list[Path]:
    """Returns the files of the runs that Weights & Biases keeps in a folder or below it, offline and online ones."""
    found = [
        *folder.glob("run-*.wandb"),
        *folder.rglob("offline-run-*/run-*.wandb"),
        *folder.rglob("run-*/run-*.wandb"),
    ]
    return sorted(
        {path.resolve(): path for path in found if "evaluation" not in path.relative_to(folder).parts}.values()
    )


def read_files(paths: Iterable[Path], known: set[str], found: Found) -> None:
    """Adds what was logged to files, but not runs whose own folders were read.

    Args:
        paths: The files.
        known: Names of folders that were read; a run's own folder is named for its id.
        found: Takes the runs.
    """
    for path in paths:
        if path.stem.removeprefix("run-") in known:
            continue
        try:
            _read_file(path, found)
        except Exception as problem:  # of protobuf, of JSON, of numbers that are none: the file is not W&B's
            text = f"{path} is damaged ({type(problem).__name__}: {problem}): skipped."
            found.problems.append(one_line(text, 400))


def _read_file(path: Path, found: Found) -> None:
    from wandb.proto import wandb_internal_pb2  # takes a second

    make_record: Any = wandb_internal_pb2.Record  # type: ignore[attr-defined]  # made when it is imported

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
        what = "is damaged" if damaged else "has no metrics"
        found.problems.append(one_line(f"{path} {what}: skipped."))
        return
    if damaged:
        found.problems.append(one_line(f"{path} is damaged behind its first {len(rows)} rows, which are used."))
    run = _run(str(path.parent), config, rows, started)
    run.finished = code == 0
    run.ended = "" if run.finished else "running, or killed" if code is None else f"failed with status {code}"
    found.runs.append(run)


def _records(data: bytes) -> Iterator[bytes | None]:
    """Yields records; None, as the last one, where the file is damaged or cut off."""
    if not data.startswith(_MAGIC):
        yield None
        return
    position, parts = _HEADER, list[bytes]()
    while position + _HEADER <= len(data):
        room = _BLOCK - position % _BLOCK
        if room < _HEADER:  # too little for a piece: the next one begins with the next block
            position += room
            continue
        checksum, length, piece = struct.unpack("<IHB", data[position : position + _HEADER])
        position += _HEADER
        part = data[position : position + length]
        if len(part) < length or zlib.crc32(part, zlib.crc32(bytes([piece]))) != checksum:
            yield None
            return
        parts.append(part)
        position += length
        if piece in (_WHOLE, _LAST):
            yield b"".join(parts)
            parts = []
    if parts or position < len(data):
        yield None


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def read_server(address: str, found: Found, api: Any = None) -> None:
    """Adds runs from a server.

    Args:
        address: `ENTITY/PROJECT`, with `/GROUP` or `/RUN` behind it for some of its runs.
        found: Takes them.
        api: A `wandb.Api`.

    Raises:
        ValueError: The address is none, there is nothing, or the server cannot be asked.
    """
    pieces = address.split("/")
    if len(pieces) not in (2, 3) or not all(pieces):
        raise ValueError(
            f"`RUN` must be {SCHEME}ENTITY/PROJECT, with /GROUP or /RUN behind it if wanted, but is {SCHEME}{address}."
        )
    project = "/".join(pieces[:2])
    try:
        if api is None:
            import wandb

            api = wandb.Api()
        runs = list(_ask(api, project, *pieces[2:]))
    except Exception as problem:  # of the network, of the account, of the server: each library below has its own
        why = one_line(f"{type(problem).__name__}: {problem}", 400)
        raise ValueError(f"{SCHEME}{address} cannot be read: {why}") from None
    if not runs:
        raise ValueError(f"{SCHEME}{address} has no runs.")
    for run in runs:
        source = f"{SCHEME}{project}/{run.id}"
        try:
            data = _run(source, dict(run.config), list(run.scan_history()), str(run.created_at or ""))
        except Exception as problem:  # of this run's history: the others may be whole
            text = f"{source} cannot be read ({type(problem).__name__}: {problem}): left out."
            found.problems.append(one_line(text, 400))
            continue
        data.name = str(run.name or run.id)
        data.finished = run.state == "finished"
        data.ended = "" if data.finished else one_line(str(run.state), 40)
        found.runs.append(data)


def _ask(api: Any, project: str, part: str | None = None) -> Iterable[Any]:
    if part is None:
        return api.runs(project)  # type: ignore[no-any-return]
    grouped = list(api.runs(project, filters={"group": part}))
    return grouped or [api.run(f"{project}/{part}")]


def _update(step: Any) -> float:
    """Returns the number of an update; Lightning counts from 0.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(step, int | float) or isinstance(step, bool) or not -1 <= step <= _MOST_UPDATES:
        raise ValueError(f"`{_STEP}` must be the number of an update, but is {step!r}")
    return step + 1


def _run(source: str, config: dict[str, Any], rows: Iterable[Mapping[str, Any]], started: str) -> RunData:
    kept, seconds = [], 0.0
    before_training = config.get("validate_first") is True
    for row in rows:
        runtime = float(row.get("_runtime") or 0)
        seconds = max(seconds, runtime if 0 <= runtime < _HIGHEST_COST else 0.0)
        values = {
            name: value for name, value in row.items() if name.startswith(("train/", "val/")) and is_number(value)
        }
        if values and row.get(_STEP) is not None:
            update = _update(row[_STEP])
            if before_training and update == 1 and any(name.startswith("val/") for name in values):
                before_training, update = False, 0
            kept.append({"update": update, **values})
    train, validation = in_order(kept)
    options = {name: value for name, value in flat("", config) if not name.startswith("_wandb")}
    peaks = [row[_PEAK_MEMORY] for row in train if _PEAK_MEMORY in row]
    updates = max((rows[-1]["update"] for rows in (train, validation) if rows), default=None)
    return RunData(
        name=source,
        source=source,
        options=options,
        train=train,
        validation=validation,
        cost=Cost(seconds, None, updates, max(peaks, default=None)),
        started=started,
    )
