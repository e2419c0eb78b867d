"""Damages the last checkpoint of a small run in many ways, and checks which checkpoint a run would resume from.

python -m benchmarks.damaged_checkpoints --flips 3000 --blocks 500 --cuts 200

Recognised: the previous checkpoint is used. Harmless: the file itself is used, and every number and name in it is
unchanged. Wrongly accepted: it is used and differs, or code in it has run. Error: choosing a checkpoint raises an
error, although the previous checkpoint is complete. Stuck: it takes longer than `--patience`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import random
import signal
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from benchmarks.runs import Run, write_config
from w2vlab.cli.resuming.resume import find_start
from w2vlab.cli.resuming.run_roots import RunRoots

OUTCOMES = ("recognised", "harmless", "wrongly accepted", "error", "stuck")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--flips", type=int, default=3000, help="of single bits: half anywhere, half in the zip's tables"
    )
    parser.add_argument("--blocks", type=int, default=500, help="overwritten by random bytes or zeros")
    parser.add_argument("--cuts", type=int, default=200, help="truncations")
    parser.add_argument("--patience", type=int, default=60, help="seconds after which a decision is stuck")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the counts go as JSON")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        last = make_checkpoints(root)
        print(f"a checkpoint of {last.stat().st_size:,} bytes\n")
        counts = {
            "single bits": tally(last, bit_flips(last, options.flips, draw), options.patience),
            "overwritten blocks": tally(last, overwritten(last, options.blocks, draw), options.patience),
            "truncations": tally(last, truncated(last, options.cuts, draw), options.patience),
            "foreign files": tally(last, foreign(last), options.patience),
            "odd things in place": tally(last, odd(last), options.patience),
        }
    print(f"| damage | number | {' | '.join(OUTCOMES)} |\n|---|{'---|' * (1 + len(OUTCOMES))}")
    for kind, found in counts.items():
        print(f"| {kind} | {sum(found.values())} | {' | '.join(str(found[outcome]) for outcome in OUTCOMES)} |")
    if options.json:
        options.json.write_text(json.dumps(counts, indent=1))


def make_checkpoints(root: Path) -> Path:
    """Trains for four updates; returns `last.ckpt`; the previous checkpoint is next to it."""
    config = write_config(root)
    flags = ["--trainer.max_steps=4", "--checkpoint.every=2", "--data.num_workers=0", "--throughput.mfu=false"]
    with Run(root / "run", config, *flags) as run:
        run.finish()
    (last,) = (root / "run").rglob("last.ckpt")
    return last


Damage = Callable[[Path], object]


def tally(last: Path, damages: Iterator[Damage], patience: int) -> Counter[str]:
    """Damages the last checkpoint in each way, chooses a checkpoint, and restores it."""
    whole = last.read_bytes()
    expected = _plain(torch.load(last, weights_only=True))
    previous = last.with_name("last-previous.ckpt")
    root = last.parents[3]
    found: Counter[str] = Counter()
    logging.disable()  # thousands of warnings
    try:
        for damage in damages:
            damage(last)
            outcome = _outcome(last, previous, expected, RunRoots(root, root), patience)
            found[outcome] += 1
            if outcome not in ("recognised", "harmless"):
                print(f"{outcome}: {getattr(damage, '__name__', damage)}", flush=True)
            _remove(last)
            last.write_bytes(whole)
    finally:
        logging.disable(logging.NOTSET)
    return found


def _outcome(last: Path, previous: Path, expected: Any, roots: RunRoots, patience: int) -> str:
    def stuck(number: int, frame: FrameType | None) -> None:
        raise _StuckError

    signal.signal(signal.SIGALRM, stuck)
    signal.alarm(patience)
    try:
        start = find_start("last", roots, training=True)
        if start is None:
            return "error"  # a start from scratch
        if start.checkpoint == previous and not last.with_name("made").exists():
            return "recognised"
        # As the trainer reads it.
        same = (
            start.checkpoint == last
            and not last.with_name("made").exists()
            and _plain(torch.load(last, weights_only=True)) == expected
        )
        return "harmless" if same else "wrongly accepted"
    except _StuckError:
        return "stuck"
    except Exception as problem:
        print(f"{type(problem).__name__}: {problem}")
        return "error"
    finally:
        signal.alarm(0)


class _StuckError(BaseException):
    pass


def _plain(value: Any) -> Any:
    """Returns a value that is equal only if every bit of every number, and every name, is the same."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(_plain, value)]
    return repr(value)


def bit_flips(last: Path, number: int, draw: random.Random) -> Iterator[Damage]:
    whole = last.read_bytes()
    tables = _tables(last)
    for count in range(number):
        place = draw.choice(tables) if count % 2 else draw.randrange(len(whole))
        bit = draw.randrange(8)

        def flip(path: Path, place: int = place, bit: int = bit) -> None:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])

        flip.__name__ = f"bit {bit} of byte {place}"
        yield flip


def _tables(last: Path) -> list[int]:
    """Returns the bytes that belong to the zip format, and not to its contents."""
    size = last.stat().st_size
    with zipfile.ZipFile(last) as file:
        own = [place for entry in file.infolist() for place in range(entry.header_offset, entry.header_offset + 64)]
        return [*own, *range(file.start_dir, size)]


def overwritten(last: Path, number: int, draw: random.Random) -> Iterator[Damage]:
    whole = last.read_bytes()
    for _ in range(number):
        length = draw.choice((1, 16, 512, 4096))
        place = draw.randrange(len(whole) - length)
        block = draw.choice((bytes(length), draw.randbytes(length)))

        def overwrite(path: Path, place: int = place, block: bytes = block) -> None:
            path.write_bytes(whole[:place] + block + whole[place + len(block) :])

        overwrite.__name__ = f"{length} bytes at {place}"
        yield overwrite


def truncated(last: Path, number: int, draw: random.Random) -> Iterator[Damage]:
    whole = last.read_bytes()
    lengths = [0, 1, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(number - 3))]
    for length in lengths:

        def cut(path: Path, length: int = length) -> None:
            path.write_bytes(whole[:length])

        cut.__name__ = f"cut to {length} bytes"
        yield cut


def foreign(last: Path) -> Iterator[Damage]:
    """Files of other kinds, some of which can be loaded or would run code."""
    whole = last.read_bytes()

    def zipped(path: Path, compression: int, content: bytes) -> None:
        with zipfile.ZipFile(path, "w", compression) as file:
            file.writestr("archive/data.pkl", content)

    yield lambda path: path.write_text("a text\n" * 1000)
    yield lambda path: path.write_bytes(os.urandom(100_000))
    yield lambda path: path.write_bytes(bytes(100_000))
    yield lambda path: path.write_text(json.dumps({"state_dict": {}, "global_step": 9}))
    yield lambda path: path.write_bytes(pickle.dumps({"state_dict": {}}))
    yield lambda path: path.write_bytes(pickle.dumps(_MakesFolder(path.with_name("made"))))
    yield lambda path: torch.save([1, 2, 3], path)
    yield lambda path: torch.save({"state_dict": {"weight": torch.zeros(3)}}, path)
    yield lambda path: torch.save({"state_dict": _MakesFolder(path.with_name("made"))}, path)
    yield lambda path: torch.save({"state_dict": {}}, path, _use_new_zipfile_serialization=False)
    yield lambda path: zipped(path, zipfile.ZIP_DEFLATED, bytes(500_000_000))  # would unpack to half a gigabyte
    yield lambda path: zipped(path, zipfile.ZIP_STORED, b"no pickle")
    yield lambda path: path.write_bytes(b"\x1f\x8b" + whole)
    yield lambda path: path.write_bytes(whole + whole)


class _MakesFolder:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def odd(last: Path) -> Iterator[Damage]:
    """Paths that are not files, or not readable."""

    def instead(make: Callable[[Path], Any]) -> Damage:
        def damage(path: Path) -> None:
            _remove(path)
            make(path)

        return damage

    yield instead(lambda path: None)
    yield instead(lambda path: path.mkdir())
    yield instead(os.mkfifo)
    yield instead(lambda path: path.symlink_to(path))
    yield instead(lambda path: path.symlink_to("nowhere.ckpt"))
    yield instead(lambda path: path.symlink_to("/dev/zero"))
    yield instead(lambda path: path.symlink_to(path.parent))
    yield instead(lambda path: path.symlink_to("/dev/stdin"))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
