"""Transcripts from all kinds of corpora."""

from __future__ import annotations

from pathlib import Path

import pytest
from lhotse import CutSet, SupervisionSegment
from lhotse.audio import Recording
from lhotse.supervision import AlignmentItem

from tests.data.conftest import write_ramp
from w2vlab.data.labels.transcripts import Transcripts, normalize, read_transcripts


@pytest.fixture
def festival(tmp_path: Path) -> Path:
    """Three utterances in the layout of a Festival voice; the last one has an empty transcript."""
    voice = tmp_path / "voice"
    for folder in ("wav", "etc", "lab"):
        (voice / folder).mkdir(parents=True)
    texts = {"ru_0001": "Волн+ы, — «вол+ос»!", "ru_0002": "Она  сказала: да.", "ru_0003": "..."}  # noqa: RUF001
    (voice / "etc" / "txt.done.data").write_text("".join(f'( {n} "{text}" )\n' for n, text in texts.items()))
    for name, phones in (("ru_0001", "pau v aa pau l pau"), ("ru_0002", "d aa"), ("ru_0003", "pau")):
        write_ramp(voice / "wav" / f"{name}.wav", 0.3)
        labels = "".join(f"{(i + 1) / 30:.3f} 125 {phone}\n" for i, phone in enumerate(phones.split()))
        (voice / "lab" / f"{name}.lab").write_text(f"#\n{labels}")
    return voice / "wav"


def test_a_festival_voice(festival: Path) -> None:
    characters = read_transcripts(festival, "characters")
    assert characters.get("ru_0001.wav") == "волны волос"
    assert characters.get("ru_0002.wav") == "она сказала да"
    assert characters.get("ru_0003.wav") is None
    assert characters.get("ru_0004.wav") is None
    phones = read_transcripts(festival, "phones")
    assert [phones.get(f"ru_000{number}.wav") for number in (1, 2, 3)] == ["v aa l", "d aa", None]


def test_librispeech(tmp_path: Path) -> None:
    chapter = tmp_path / "dev-clean" / "19" / "198"
    chapter.mkdir(parents=True)
    (chapter / "19-198.trans.txt").write_text("19-198-0000 IT'S A TEST\n19-198-0001 'TIS\n")
    transcripts = read_transcripts(tmp_path, "characters")
    assert transcripts.get("dev-clean/19/198/19-198-0000.flac") == "it's a test"
    assert transcripts.get("dev-clean/19/198/19-198-0001.flac") == "tis"
    assert transcripts.get("19-198-0000.flac") is None
    assert transcripts.get("dev-clean/19/198/19-198-0000.txt") is None, "not an audio file"


def test_a_fairseq_manifest(tmp_path: Path) -> None:
    manifest = tmp_path / "train.tsv"
    manifest.write_text(f"{tmp_path}\na.wav\t4000\nb/c.wav\t4000\n")
    (tmp_path / "train.wrd").write_text("ONE\nTWO THREE\n")
    (tmp_path / "train.phn").write_text("W AH N\nT UW SIL TH R IY\n")
    characters, phones = (read_transcripts(manifest, units) for units in ("characters", "phones"))
    assert [characters.get(name) for name in ("a.wav", "b/c.wav")] == ["one", "two three"]
    assert [phones.get(name) for name in ("a.wav", "b/c.wav")] == ["W AH N", "T UW TH R IY"]
    (tmp_path / "train.wrd").write_text("ONE\n")
    with pytest.raises(
        ValueError, match=r"train\.wrd must have one line for each of the 2 utterances of .*, but has 1"
    ):
        read_transcripts(manifest, "characters")


def test_a_lhotse_manifest(tmp_path: Path) -> None:
    cuts = []
    for name, length in (("whole", 0.4), ("cut", 0.2), ("silent", 0.4)):
        recording = Recording.from_file(write_ramp(tmp_path / f"{name}.wav", 0.4), recording_id=name)
        cut = recording.to_cut()
        items = [AlignmentItem("HH", 0.0, 0.1), AlignmentItem("AY", 0.1, 0.2)]
        if name != "silent":
            second = SupervisionSegment(f"{name}-2", name, start=0.2, duration=0.15, text="there")
            first = SupervisionSegment(name, name, start=0.0, duration=0.2, text="Hi").with_alignment("phone", items)
            cut.supervisions = [second, first]
        cuts.append(cut if length == 0.4 else cut.truncate(duration=length, preserve_id=True))
    manifest = tmp_path / "cuts.jsonl"
    CutSet.from_cuts(cuts).to_file(manifest)
    characters = read_transcripts(manifest, "characters")
    assert characters.get("whole") == "hi there"
    assert characters.get("silent") is None
    assert read_transcripts(manifest, "phones").get("whole") == "HH AY"
    # A supervision that ends after its cut has words that are not in the audio.
    cuts[1].supervisions = [SupervisionSegment("s", "cut", start=0.1, duration=0.3, text="too much")]
    CutSet.from_cuts(cuts).to_file(manifest)
    assert read_transcripts(manifest, "characters").get("cut") is None


@pytest.mark.parametrize("units", ["characters", "phones"])
def test_a_corpus_without_transcripts_is_an_error(units: str, corpus: Path) -> None:
    with pytest.raises(ValueError, match=f"`corpus` must have transcripts for `model.units` {units}, but .* none"):
        read_transcripts(corpus, units)


def test_text_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.trans.txt").write_bytes(b"a \xff\n")
    with pytest.raises(ValueError, match=r"a\.trans\.txt must be UTF-8 text"):
        read_transcripts(tmp_path, "characters")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don’t  stop-me, 22!", "don't stop me 22"),  # noqa: RUF001
        ("'quoted' words'", "quoted words"),
        ("Cafe\u0301 —", "café"),
        (" ' ", ""),
    ],
)
def test_normalisation_of_words(text: str, expected: str) -> None:
    assert normalize(text) == expected


def test_an_id_has_precedence_over_one_without_its_suffix() -> None:
    transcripts = Transcripts({"a.wav": "one", "a": "two"}, "characters")
    assert (transcripts.get("a.wav"), transcripts.get("a.flac"), transcripts.get("a")) == ("one", "two", "two")


@pytest.fixture
def transcribed(corpus: Path) -> Path:
    """The corpus, with transcripts of all utterances but three."""
    for speaker in (0, 1):
        names = [path.stem for path in sorted((corpus / f"speaker{speaker}").glob("*.wav"))]
        said = "".join(f"{name} word {name[1:]}\n" for name in names if name not in ("u02", "u03", "u04"))
        (corpus / f"speaker{speaker}" / "all.trans.txt").write_text(said)
    return corpus


def test_batches_have_the_transcripts_of_full_utterances(transcribed: Path, make_module) -> None:
    module = make_module(transcribed, crop_to_shortest=False, max_seconds=0.5, min_seconds=0.21)
    module.require(1600, units="characters")
    module.prepare_data()
    module.setup()
    summary = module.summary()
    for reason in ("3 without a transcript", "9 longer than 0.5 s", "1 shorter than 0.21 s"):
        assert reason in summary
    seen = {}
    for loader in (module.train_dataloader(), module.val_dataloader()):
        for batch in loader:
            for name, samples, transcript in zip(batch.ids, batch.num_samples, batch.transcripts, strict=True):
                seen[name] = transcript
                number = int(Path(name).stem[1:])
                assert samples == round((0.2 + number / 100) * 16_000), "nothing is cropped"
                assert transcript == f"word {number:02}"
    assert len(seen) >= 40 - 3 - 9 - 1 - 4  # a training epoch drops incomplete updates
    held_out = {transcript for batch in module.val_dataloader() for transcript in batch.transcripts}
    assert held_out.isdisjoint(module.training_transcripts())


def test_batches_have_no_transcripts_by_default(transcribed: Path, ready_module) -> None:
    module = ready_module(transcribed)
    assert next(iter(module.train_dataloader())).transcripts is None
    assert list(module.training_transcripts()) == []


def test_transcribed_utterances_cannot_be_cropped(transcribed: Path, make_module) -> None:
    with pytest.raises(ValueError, match="`crop_to_shortest` must be false for a model that learns from transcripts"):
        make_module(transcribed).require(1600, units="characters")


def test_a_corpus_without_a_usable_transcribed_utterance_is_an_error(transcribed: Path, make_module) -> None:
    module = make_module(transcribed, crop_to_shortest=False, max_seconds=0.1, batch_seconds=1)
    module.require(1600, units="characters")
    module.prepare_data()
    with pytest.raises(ValueError, match="must have an utterance that has a transcript and a length in range"):
        module.setup()
