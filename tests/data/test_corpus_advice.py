"""A corpus in the form of another program is refused with a line that says how to give it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lhotse import CutSet, RecordingSet

from tests.data.conftest import write_ramp
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.data.corpora.sample_corpora import fetch

NEMO = {"audio_filepath": "a.wav", "duration": 1.0, "text": "a"}


@pytest.mark.parametrize(
    ("corpus", "advice"),
    [
        ("asterisk", r"It has 5 corpora: --data\.corpus='\{en: asterisk-en, es: asterisk-es, .*ru: asterisk-ru\}'\.$"),
        ("librispeech", r"`w2vlab prepare librispeech OUT`, then --data\.corpus=OUT\.$"),
        ("festvox_ru", r"Did you mean festvox-ru\?$"),
        ("org/name", r"A data set of the Hugging Face hub is not loaded by its name: "),
        ("wds/*.tar", r"Patterns are not expanded: .*\{000000\.\.000099\}\.$"),
        ("wds/{000,002}.tar", r"Of braces only a range of numbers is read"),
        ("a.tar::b.tar", r"Of braces only a range of numbers is read"),
        ("a.wav,asterisk-it", r"Several corpora are a list in brackets: --data\.corpus='\[a\.wav, asterisk-it\]'\.$"),
        ("{ru: ru, it: asterisk-it}", r"Here one corpus is read, and no mixture: run the command once for each\.$"),
        ("[ru, it]", r"Here one corpus is read, and no mixture"),
        ("nowhere", r"there is no .*nowhere\.$"),
    ],
)
def test_a_corpus_that_is_no_path(
    corpus: str, advice: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.wav").touch()
    with pytest.raises(ValueError, match=f"^`corpus` must be an existing path or one of festvox-ru, .*{advice}"):
        fetch(corpus, cache)


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("a.wav", "", r"One file is no corpus: give its folder, .*\.$"),
        ("nemo.json", json.dumps(NEMO) + "\n" + json.dumps(NEMO), "It is a manifest of NeMo, which is not read: give"),
        ("nemo.jsonl", json.dumps(NEMO), "but is not: It is a manifest of NeMo, which is not read: give the folder"),
        (
            "dataset.json",
            json.dumps({"data": [NEMO] * 100, "version": 1}),
            r"It is no manifest of lhotse, but has data: give the folder",
        ),
        ("list.json", json.dumps([{"path": "a.wav", "sentence": "a"}]), "but has path, sentence: give the folder"),
        ("table.csv", "path,sentence\n", "A table is not read: give the folder of its audio, or a fairseq manifest"),
        ("cv.tsv", "client_id\tpath\tsentence\n1\ta.wav\ta\n", "These are names of columns, as in Common Voice, and "),
        ("wav.scp", "a a.wav\n", r"`lhotse kaldi import .* 16000 OUT` .*OUT/recordings\.jsonl\.gz\.$"),
        ("train.tsv", "/nowhere\na.wav\t1\n", r"an existing folder, but is '/nowhere'\.$"),
    ],
)
def test_a_file_that_is_no_corpus(name: str, content: str, advice: str, tmp_path: Path, cache: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"must be .*{advice}"):
        prepare_manifest(tmp_path / name, cache)


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        ({"train.tsv": "", "dict.txt": "", "valid.tsv": ""}, r"Give one of its manifests: .*/train\.tsv\.$"),
        ({"recordings.jsonl.gz": "", "cuts.jsonl.gz": ""}, r"Give one of its manifests: .*/cuts\.jsonl\.gz\.$"),
        ({"b/prepare.json": "", "a/prepare.json": ""}, r"--data\.corpus='\{a: .*/a, b: .*/b\}'\.$"),
        ({"wav.scp": "", "text": ""}, r"It is a data folder of Kaldi: "),
        ({"train.json": json.dumps(NEMO)}, r"It has a manifest of NeMo, "),
        ({"data-00000.arrow": "", "state.json": "{}"}, r"Audio within tables of Parquet or Arrow is not read"),
        ({"x.tar": "", "inner/notes.txt": ""}, r"Give its tars as a range of numbers"),
        ({"notes.txt": ""}, r"\(flac, mp3, ogg, opus, wav\)\.$"),
    ],
)
def test_a_folder_without_audio(files: dict[str, str], advice: str, tmp_path: Path, cache: Path) -> None:
    for name, content in files.items():
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text(content)
    with pytest.raises(ValueError, match=f"but in .*corpus there is no audio file .*{advice}"):
        prepare_manifest(tmp_path / "corpus", cache)


def test_the_cuts_of_a_shard_are_no_corpus(tmp_path: Path, cache: Path) -> None:
    """Their audio is in the tar beside them, so that none could be read in a training."""
    (tmp_path / "audio").mkdir()
    write_ramp(tmp_path / "audio" / "a.wav", 0.5)
    cuts = CutSet.from_manifests(recordings=RecordingSet.from_dir(tmp_path / "audio", pattern="*.wav"))
    (tmp_path / "shar").mkdir()
    cuts.to_shar(tmp_path / "shar", fields={"recording": "flac"}, shard_size=1)
    with pytest.raises(
        ValueError, match=r"must be the folder of shards, but is .*cuts\.000000\.jsonl\.gz, .*give .*shar\."
    ):
        prepare_manifest(tmp_path / "shar" / "cuts.000000.jsonl.gz", cache)
