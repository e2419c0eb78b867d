"""Label files, transcripts and lhotse alignments: reading and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lhotse.audio import Recording
from lhotse.cut import CutSet
from lhotse.supervision import AlignmentItem, SupervisionSegment

from tests.data.conftest import write_ramp
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.data.labels.alignments import Alignment, find_alignments, read_festival_transcripts, read_lab_file

LAB = "#\n0.34200 125 pau\n0.39200 125 k\n0.42200 125 ay\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_of_festival(tmp_path: Path) -> None:
    alignment = read_lab_file(write(tmp_path / "x.lab", "separator ;\nnfields 1\n" + LAB))
    assert alignment.phones == ("pau", "k", "ay")
    assert alignment.starts.tolist() == [0, 0.342, 0.392]
    assert alignment.ends.tolist() == [0.342, 0.392, 0.422]
    assert alignment.centres.tolist() == pytest.approx([0.171, 0.367, 0.407])


def test_phone_indices() -> None:
    alignment = Alignment(("a", "b", "c"), np.array([0.1, 0.2, 0.5]), np.array([0.2, 0.3, 0.6]))
    times = [0.0, 0.1, 0.19, 0.2, 0.3, 0.4, 0.5, 0.59, 0.6]  # with a gap; an end belongs to the next phone
    assert alignment.phone_indices(times).tolist() == [-1, 0, 0, 1, -1, -1, 2, 2, -1]
    assert Alignment((), np.array([]), np.array([])).phone_indices([0.1]).tolist() == [-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.3 125 pau\n", "must be a label file with a line `#`"),
        (LAB + "0.40000 125 t\n", r"Line 5 of .* must be an end time in seconds after 0.422, a number and a phone"),
        (LAB + "soon 125 t\n", r"Line 5 of .*, but is 'soon 125 t'"),
        (LAB + "0.50000 125\n", r"Line 5 of .*, but is '0.50000 125'"),
        (LAB + "nan 125 t\n", r"Line 5 of .*, but is 'nan 125 t'"),
    ],
)
def test_malformed_labels(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_lab_file(write(tmp_path / "x.lab", text))


def test_labels_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "x.lab").write_bytes(b"#\n\xff\xfe")
    with pytest.raises(ValueError, match="must be UTF-8 text"):
        read_lab_file(tmp_path / "x.lab")


def test_labels_beyond_the_audio() -> None:
    alignment = Alignment(("a", "b"), np.array([0, 0.5]), np.array([0.5, 1.0]))
    alignment.check("x.wav", 0.98)
    with pytest.raises(
        ValueError, match=r"The labels of x.wav must end with its audio, at 0.900 s, but end at 1.000 s"
    ):
        alignment.check("x.wav", 0.9)


def test_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "txt.done.data", '( ru_0001 "Друг, двиг+ай." )\n\n( ru_0002 "Один \\"два\\"" )\n')
    assert read_festival_transcripts(path) == {"ru_0001": "Друг, двиг+ай.", "ru_0002": 'Один \\"два\\"'}
    with pytest.raises(ValueError, match=r'Line 1 of .* must be \( NAME "text" \)'):
        read_festival_transcripts(write(tmp_path / "other", "ru_0001 text\n"))


def test_label_files_beside_the_audio_and_of_a_festival_voice(tmp_path: Path) -> None:
    for root, lab in ((tmp_path / "flat", tmp_path / "flat"), (tmp_path / "voice" / "wav", tmp_path / "voice" / "lab")):
        write_ramp(root / "a" / "x.wav", 0.5)
        write_ramp(root / "y.flac", 0.5)
        write_ramp(root / "unlabelled.wav", 0.5)
        write(lab / "a" / "x.lab", LAB)
        write(lab / "y.lab", "#\n0.4 125 s\n")
        found = find_alignments(root)
        assert {name: alignment.phones for name, alignment in found.items()} == {
            "a/x.wav": ("pau", "k", "ay"),
            "y.flac": ("s",),
        }
    assert find_alignments(tmp_path / "voice" / "lab") == {}


def test_a_corpus_without_labels_has_none(tmp_path: Path) -> None:
    write_ramp(tmp_path / "corpus" / "x.wav", 0.5)
    assert find_alignments(tmp_path / "corpus") == {}
    assert find_alignments(write(tmp_path / "list.tsv", f"{tmp_path}\n")) == {}


def manifest_with(alignment: dict, tmp_path: Path, speaker: str | None = "anna") -> Path:
    recording = Recording.from_file(write_ramp(tmp_path / "x.wav", 1.0), recording_id="x")
    cut = recording.to_cut()
    cut.supervisions = [SupervisionSegment("s", "x", 0, 1.0, speaker=speaker, alignment=alignment)]
    bare = Recording.from_file(write_ramp(tmp_path / "y.wav", 1.0), recording_id="y").to_cut()
    CutSet.from_cuts([cut, bare]).to_file(tmp_path / "cuts.jsonl")
    return tmp_path / "cuts.jsonl"


def test_alignments_of_lhotse(tmp_path: Path) -> None:
    items = [AlignmentItem("b", 0.3, 0.2), AlignmentItem("a", 0.1, 0.2)]
    found = find_alignments(manifest_with({"phone": items}, tmp_path))
    assert list(found) == ["x"]
    assert (found["x"].phones, found["x"].speaker) == (("a", "b"), "anna")
    assert found["x"].ends.tolist() == pytest.approx([0.3, 0.5])
    # The keys are the ids of the data module.
    manifest = prepare_manifest(tmp_path / "cuts.jsonl", tmp_path / "cache")
    assert {cut.id for cut in CutSet.from_jsonl_lazy(manifest.cuts)} == {"x", "y"}


def test_word_alignments_are_not_phone_alignments(tmp_path: Path) -> None:
    assert find_alignments(manifest_with({"word": [AlignmentItem("hello", 0.1, 0.5)]}, tmp_path)) == {}


@pytest.mark.parametrize("second", [AlignmentItem("b", 0.2, 0.2), AlignmentItem("b", 0.3, 0.0)])
def test_overlapping_or_empty_phones(second: AlignmentItem, tmp_path: Path) -> None:
    manifest = manifest_with({"phone": [AlignmentItem("a", 0.1, 0.2), second]}, tmp_path)
    with pytest.raises(ValueError, match="must have consecutive phones"):
        find_alignments(manifest)
