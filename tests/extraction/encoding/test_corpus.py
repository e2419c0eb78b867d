"""The order of a corpus, and reading it by number."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
from lhotse import CutSet

from tests.extraction.encoding.conftest import SECONDS, write_noise
from w2vlab.extraction.encoding.corpus import open_ordered_corpus
from w2vlab.types import RunError

NAMES = [f"u{number:02}.wav" for number in range(len(SECONDS))]


def ids_of(corpus: Path, cache: Path, **options: object) -> list[str]:
    found, _, _ = open_ordered_corpus(str(corpus), cache, 400, **options)  # type: ignore[arg-type]
    return [found.cut(number).id for number in range(len(found))]


def test_a_folder_is_in_the_order_of_its_ids(corpus: Path, cache: Path) -> None:
    found, fingerprint, skipped = open_ordered_corpus(str(corpus), cache, 400)
    assert [found.cut(number).id for number in range(len(found))] == NAMES
    assert found.durations.tolist() == list(SECONDS)
    assert found.seconds == pytest.approx(sum(SECONDS))
    assert skipped == {}
    again, same, _ = open_ordered_corpus(str(corpus), cache, 400, fingerprint=fingerprint)
    assert (again.digest, same) == (found.digest, fingerprint)


def test_a_manifest_keeps_its_order(corpus: Path, cache: Path, tmp_path: Path) -> None:
    order = [NAMES[number] for number in (7, 2, 9, 0, 2)]  # one is listed twice
    lines = [f"{name}\t{round(16_000 * SECONDS[NAMES.index(name)])}" for name in order]
    (tmp_path / "train.tsv").write_text("\n".join([str(corpus), *lines]) + "\n")
    assert ids_of(tmp_path / "train.tsv", cache) == order[:4]
    cuts = {cut.id: cut for cut in CutSet.from_jsonl_lazy(next((cache / "manifests").glob("train*/cuts*.jsonl")))}
    CutSet.from_cuts(cuts[name] for name in order[:4]).to_file(tmp_path / "cuts.jsonl.gz")
    assert ids_of(tmp_path / "cuts.jsonl.gz", cache) == order[:4]


def test_other_order_other_digest(corpus: Path, cache: Path, tmp_path: Path) -> None:
    digests = []
    for name, order in (("one.tsv", NAMES[:2]), ("two.tsv", NAMES[1::-1])):
        lines = [f"{name}\t{round(16_000 * SECONDS[NAMES.index(name)])}" for name in order]
        (tmp_path / name).write_text("\n".join([str(corpus), *lines]) + "\n")
        digests.append(open_ordered_corpus(str(tmp_path / name), cache, 400)[0].digest)
    assert digests[0] != digests[1]


def test_too_short_and_excluded(corpus: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "ids").write_text("u03.wav\nu04.wav\n")
    found, _, _ = open_ordered_corpus(str(corpus), cache, 9_000, str(tmp_path / "ids"))
    assert found.too_short == ["u01.wav", "u08.wav"]
    assert found.num_excluded == 2
    assert len(found) == len(SECONDS) - 4
    (tmp_path / "others").write_text("another\n")
    with caplog.at_level(logging.WARNING):
        open_ordered_corpus(str(corpus), cache, 400, str(tmp_path / "others"))
    assert "`exclude` has no effect" in caplog.text
    with pytest.raises(ValueError, match=r"^`data` must have an utterance with a frame, but .* has none: 10 shorter"):
        open_ordered_corpus(str(corpus), cache, 10**9)


def test_it_is_read_in_other_processes(tmp_path: Path) -> None:
    corpus = write_noise(tmp_path / "corpus", (0.5, 0.6))
    found, _, _ = open_ordered_corpus(str(corpus), tmp_path / "cache", 400)
    copy = pickle.loads(pickle.dumps(found))
    assert copy.cut(1).id == found.cut(1).id == "u01.wav"
    for manifest in (tmp_path / "cache").rglob("cuts*.jsonl"):
        manifest.unlink()
    with pytest.raises(RunError, match="has been removed"):
        pickle.loads(pickle.dumps(found)).cut(0)
