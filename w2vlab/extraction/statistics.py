"""Statistics of the codes of a corpus: usage, entropy, bit rates and repeats. Those of shards add up to the whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]

JOINT = "joint"
"""Name of the tuples of codes of all codebooks; single codebooks are `codebook 1` and so on."""

MAX_TUPLES = 2**17
"""Tuples of codes that are counted; of more, only repeats are known, so that memory and the record of a shard stay
small."""


@dataclass(frozen=True, kw_only=True)
class CodeStatistics:
    """Counts over utterances; `+` adds those of other utterances.

    Attributes:
        num_utterances: Utterances.
        num_frames: Frames of all utterances.
        usage: Frames with each entry of each codebook, shape `(G, V)`.
        runs: Runs of equal codes in each codebook, shape `(G,)`; runs end with their utterances.
        joint_runs: Runs of equal tuples.
        tuples: The tuples of codes that occur, in ascending order, shape `(K, G)`; None if there are more than
            `MAX_TUPLES`.
        tuple_frames: Frames with each tuple, shape `(K,)`.
        tuple_runs: Runs of each tuple, shape `(K,)`.
    """

    num_utterances: int
    num_frames: int
    usage: Counts
    runs: Counts
    joint_runs: int
    tuples: Counts | None
    tuple_frames: Counts
    tuple_runs: Counts

    @classmethod
    def of(cls, sequences: Iterable[npt.NDArray[Any]], num_codebooks: int, codebook_size: int) -> CodeStatistics:
        """Counts the codes of utterances.

        Args:
            sequences: Codes `(T, G)` of each utterance.
            num_codebooks: Codebooks G.
            codebook_size: Entries V of each codebook.
        """
        found = list(sequences)
        codes = np.concatenate([*found, np.zeros((0, num_codebooks), dtype=np.int64)], axis=0, dtype=np.int64)
        changed = np.ones((len(codes), num_codebooks), dtype=bool)
        changed[1:] = codes[1:] != codes[:-1]
        firsts = np.cumsum([0, *map(len, found)], dtype=np.int64)
        changed[firsts[firsts < len(codes)]] = True
        starts_run: npt.NDArray[np.bool_] = np.asarray(changed.any(axis=1))
        usage = [np.bincount(codes[:, group], minlength=codebook_size) for group in range(num_codebooks)]
        return cls(
            num_utterances=len(found),
            num_frames=len(codes),
            usage=np.stack(usage).astype(np.int64),
            runs=changed.sum(axis=0, dtype=np.int64),
            joint_runs=int(starts_run.sum()),
            **_tables(codes, np.ones(len(codes), dtype=np.int64), np.asarray(starts_run, dtype=np.int64)),
        )

    def __add__(self, other: CodeStatistics) -> CodeStatistics:
        if self.tuples is None or other.tuples is None:
            tables = _NO_TABLES
        else:
            tables = _tables(
                np.concatenate([self.tuples, other.tuples]),
                np.concatenate([self.tuple_frames, other.tuple_frames]),
                np.concatenate([self.tuple_runs, other.tuple_runs]),
            )
        return CodeStatistics(
            num_utterances=self.num_utterances + other.num_utterances,
            num_frames=self.num_frames + other.num_frames,
            usage=self.usage + other.usage,
            runs=self.runs + other.runs,
            joint_runs=self.joint_runs + other.joint_runs,
            **tables,
        )

    def as_plain(self) -> dict[str, Any]:
        """Returns the counts as plain data, for the record of a shard."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> CodeStatistics:
        """Returns the counts that `as_plain` gave."""
        num_codebooks = len(content["runs"])
        arrays: dict[str, Any] = {
            name: np.array(value, dtype=np.int64) if isinstance(value, list) else value
            for name, value in content.items()
        }
        if arrays["tuples"] is not None:  # an empty list has no width
            arrays["tuples"] = arrays["tuples"].reshape(-1, num_codebooks)
        return cls(**arrays)

    def as_dict(self, frames_per_second: float) -> dict[str, Any]:
        """Returns the statistics.

        Args:
            frames_per_second: Frame rate in Hz.

        Returns:
            `utterances`, `frames` and `seconds`; `codebooks`, a list, and `joint`: each with `entries`, `used`,
            `perplexity` (of the usage), `bits_per_frame` (its entropy), `repeats` (the share of frames with the code of
            the frame before) and `mean_run_frames`; and `bits_per_second` of the tuples with ideal entropy coding of
            independent symbols: `frames`, with one symbol a frame, and `runs`, with one symbol a run, without its
            length. What cannot be computed is None.
        """
        size = self.usage.shape[1]
        codebooks = [
            self._measures(counts, int(runs), size) for counts, runs in zip(self.usage, self.runs, strict=True)
        ]
        known = self.tuples is not None
        joint = self._measures(self.tuple_frames if known else None, self.joint_runs, size ** len(self.usage))
        seconds = self.num_frames / frames_per_second
        run_bits = _entropy(self.tuple_runs) if known else None
        return {
            "utterances": self.num_utterances,
            "frames": self.num_frames,
            "seconds": seconds,
            "codebooks": codebooks,
            JOINT: joint,
            "bits_per_second": {
                "frames": None if joint["bits_per_frame"] is None else frames_per_second * joint["bits_per_frame"],
                "runs": None if run_bits is None or not seconds else self.joint_runs / seconds * run_bits,
            },
        }

    def _measures(self, counts: Counts | None, runs: int, entries: int) -> dict[str, Any]:
        bits = None if counts is None else _entropy(counts)
        return {
            "entries": entries,
            "used": None if counts is None else int((counts > 0).sum()),
            "perplexity": None if bits is None else 2**bits,
            "bits_per_frame": bits,
            "repeats": 1 - runs / self.num_frames if self.num_frames else None,
            "mean_run_frames": self.num_frames / runs if runs else None,
        }


def statistics_table(statistics: Mapping[str, Any], name: str) -> str:
    """Returns the result of `CodeStatistics.as_dict` as a text of several lines.

    Args:
        statistics: The result.
        name: What the entries of a single codebook are, `codes` or `units`.
    """
    codebooks: Sequence[Mapping[str, Any]] = statistics["codebooks"]
    rows = [(f"codebook {number}", measures) for number, measures in enumerate(codebooks, start=1)]
    rows = [*rows, (JOINT, statistics[JOINT])] if len(rows) > 1 else [(name, codebooks[0])]
    lines = [f"{'':12}{'used':>20}  {'perplexity':>10}  {'bits a frame':>12}  {'repeats':>7}  {'mean run':>10}"]
    for label, measures in rows:
        used = "many" if measures["used"] is None else f"{measures['used']:,}"
        entries = measures["entries"]
        used = f"{used} of {entries:,}" if entries < 10**9 else f"{used} of {entries:.0e}"
        lines.append(
            f"{label:12}{used:>20}  {_number(measures['perplexity'], ',.1f'):>10}  "
            f"{_number(measures['bits_per_frame'], '.2f'):>12}  {_number(measures['repeats'], '.1%'):>7}  "
            f"{_number(measures['mean_run_frames'], '.2f'):>3} frames"
        )
    bits = statistics["bits_per_second"]
    lines.append(
        f"bits a second: {_number(bits['frames'], ',.1f')} with a symbol a frame, {_number(bits['runs'], ',.1f')} with "
        "a symbol a run (without its length)"
    )
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


_NO_TABLES: dict[str, Any] = {
    "tuples": None,
    "tuple_frames": np.zeros(0, dtype=np.int64),
    "tuple_runs": np.zeros(0, dtype=np.int64),
}


def _tables(tuples: Counts, frames: Counts, runs: Counts) -> dict[str, Any]:
    """Sums the frames and runs of equal tuples."""
    unique, inverse = np.unique(tuples, axis=0, return_inverse=True)
    if len(unique) > MAX_TUPLES:
        return _NO_TABLES
    inverse = inverse.reshape(-1)
    # The weights of bincount are float64, which is exact below 2^53.
    return {
        "tuples": unique,
        "tuple_frames": np.bincount(inverse, weights=frames, minlength=len(unique)).astype(np.int64),
        "tuple_runs": np.bincount(inverse, weights=runs, minlength=len(unique)).astype(np.int64),
    }


def _entropy(counts: Counts) -> float | None:
    """Returns the entropy in bits of a distribution given by counts; None without counts."""
    total = counts.sum()
    if not total:
        return None
    shares = counts[counts > 0] / total
    return max(0.0, float(-(shares * np.log2(shares)).sum()))
