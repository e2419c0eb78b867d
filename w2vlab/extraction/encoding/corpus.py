"""The utterances of a corpus in its own order, read by their number."""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lhotse.cut import Cut
from lhotse.utils import compute_num_samples

from w2vlab.data.corpora.held_out import make_exclusion_filter
from w2vlab.data.corpora.listing import iter_ids
from w2vlab.data.corpora.manifest_file import ManifestFile
from w2vlab.data.corpora.manifests import prepare_manifest, read_manifest
from w2vlab.data.corpora.sample_corpora import fetch, locate
from w2vlab.data.corpora.utterances import short_hash, utterance_key
from w2vlab.data.shards.found import BYTES
from w2vlab.data.shards.found import iter_ids as iter_shards
from w2vlab.data.shards.sources import is_sharded
from w2vlab.types import SAMPLE_RATE, Seconds

logger = logging.getLogger(__name__)


class OrderedCorpus:
    """Utterances of a prepared manifest in the order of the corpus: of its manifest, or of the ids in a folder.

    16 bytes of each utterance are in memory; the cuts stay on disk.

    Args:
        manifest: Path of the prepared cuts.
        ids: Ids in the order of the corpus, as `iter_ids` yields them.
        min_samples: Utterances of fewer samples at 16 kHz are left out.
        excluded: Returns True for the ids of utterances to leave out; None excludes none.
        check: Called with the id and the paths of each utterance that is not left out, to raise an error.

    Attributes:
        durations: Duration of each utterance in seconds.
        too_short: Ids of utterances that were left out because they have no frame.
        num_excluded: Number of utterances that `excluded` left out.
        digest: Hash of all utterances and their order; of ids, lengths and file sizes, and not of paths.
    """

    def __init__(
        self,
        manifest: Path,
        ids: Iterator[str],
        min_samples: int,
        excluded: Callable[[str], bool] | None = None,
        check: Callable[[Iterable[str]], None] | None = None,
    ) -> None:
        self.too_short: list[str] = []
        self.num_excluded = 0
        self._manifest = ManifestFile(manifest)
        offsets, durations, names, keys = array("q"), array("d"), array("Q"), array("Q")
        for offset, cut in self._manifest:
            if excluded is not None and excluded(cut["id"]):
                self.num_excluded += 1
            elif compute_num_samples(cut["duration"], SAMPLE_RATE) < min_samples:
                self.too_short.append(cut["id"])
            else:
                if check is not None:
                    check(_names_of(cut))
                offsets.append(offset)
                durations.append(cut["duration"])
                names.append(short_hash(cut["id"]))
                sizes = (cut.get("custom") or {}).get(BYTES)
                keys.append(utterance_key(cut["id"], cut["start"], cut["duration"], sizes))
        listed = np.fromiter(map(short_hash, ids), dtype=np.uint64)
        order = _rows_in_order(listed, np.array(names, dtype=np.uint64))
        assert len(order) == len(names), "the listing has every utterance of the manifest"
        self.too_short.sort()
        self._offsets: npt.NDArray[np.int64] = np.array(offsets, dtype=np.int64)[order]
        self.durations: npt.NDArray[np.float64] = np.array(durations, dtype=np.float64)[order]
        self.digest = hashlib.blake2b(np.array(keys, dtype=np.uint64)[order].tobytes(), digest_size=16).hexdigest()
        self._manifest.mark_as_used()

    def __len__(self) -> int:
        return len(self.durations)

    @property
    def seconds(self) -> Seconds:
        """Total duration in seconds."""
        return float(self.durations.sum())

    def cut(self, number: int) -> Cut:
        """Returns the utterance of a number, from 0.

        Raises:
            RunError: The manifest has been removed.
        """
        return self._manifest.cut(int(self._offsets[number]))


def open_ordered_corpus(
    corpus: str,
    cache: Path,
    min_samples: int,
    exclude: str | None = None,
    fingerprint: str | None = None,
    check: Callable[[Iterable[str]], None] | None = None,
) -> tuple[OrderedCorpus, str, dict[str, dict[str, object]]]:
    """Opens a corpus.

    Args:
        corpus: A name or a path, as in `data.corpus` of a run.
        cache: The cache folder.
        min_samples: Utterances of fewer samples at 16 kHz are left out.
        exclude: Utterances to leave out, as in `data.exclude` of a run.
        fingerprint: Fingerprint of a manifest that another process has prepared; None prepares it.
        check: Called with the id and the paths of each utterance that is not left out, to raise an error.

    Returns:
        The corpus, the fingerprint of its manifest, and the utterances that could not be used when it was scanned:
        their number and examples by reason.

    Raises:
        ValueError: The corpus cannot be used, or has no utterance with a frame.
    """
    if fingerprint is None:
        source = fetch(corpus, cache)
        manifest = prepare_manifest(source, cache)
    else:
        source = locate(corpus, cache)
        manifest = read_manifest(source, cache, fingerprint)
    ids = iter_ids(source) if isinstance(source, Path) and not is_sharded(source) else iter_shards(manifest.cuts)
    found = OrderedCorpus(manifest.cuts, ids, min_samples, make_exclusion_filter(exclude), check)
    if not len(found):
        short = f"{len(found.too_short)} shorter than {min_samples} samples at 16 kHz"
        raise ValueError(
            f"`data` must have an utterance with a frame, but {corpus} has none: {short}, "
            f"{found.num_excluded} excluded."
        )
    if exclude is not None and not found.num_excluded:
        logger.warning("`exclude` has no effect: %s has no utterance of %s.", corpus, exclude)
    skipped = {
        reason: {"count": number, "examples": manifest.skipped.examples[reason]}
        for reason, number in sorted(manifest.skipped.counts.items())
    }
    return found, manifest.fingerprint, skipped


def _names_of(cut: Mapping[str, Any]) -> Iterator[str]:
    """Yields the id of a cut, as plain data, and the paths of its audio."""
    yield cut["id"]
    for source in (cut.get("recording") or {}).get("sources", ()):
        if source["type"] == "file":
            yield source["source"]


def _rows_in_order(listed: npt.NDArray[np.uint64], names: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Returns the row of `names` of each hash in `listed`, without those that it does not have, and each once."""
    if not len(names):
        return np.zeros(0, dtype=np.int64)
    by_name = np.argsort(names)
    rows = by_name[np.minimum(np.searchsorted(names, listed, sorter=by_name), len(names) - 1)]
    rows = rows[names[rows] == listed]
    _, firsts = np.unique(rows, return_index=True)
    found: npt.NDArray[np.int64] = rows[np.sort(firsts)]
    return found
