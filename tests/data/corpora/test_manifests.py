from __future__ import annotations

import errno
import json
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSet
from lhotse.audio import AudioSource

from tests.data.conftest import RATE, write_ramp
from w2vlab.data.batches.dataset import SpeechDataset
from w2vlab.data.corpora import listing, manifests, scanning
from w2vlab.data.corpora.manifests import prepare_manifest, read_manifest
from w2vlab.data.corpora.tally import Tally, remarks


def ids(manifest) -> list[str]:
    return sorted(cut.id for cut in CutSet.from_jsonl_lazy(manifest.cuts))


def test_folder_is_searched_with_its_links_and_names_are_relative(tmp_path, cache):
    write_ramp(tmp_path / "corpus/a.wav", 0.3)
    write_ramp(tmp_path / "corpus/deep/er/b.FLAC", 0.3)
    write_ramp(tmp_path / "elsewhere/c.ogg", 0.3)
    (tmp_path / "corpus/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus/deep/loop").symlink_to(tmp_path / "corpus")
    (tmp_path / "corpus/readme.txt").write_text("not audio")
    assert ids(prepare_manifest(tmp_path / "corpus", cache)) == ["a.wav", "deep/er/b.FLAC", "link/c.ogg"]


def test_bad_files_are_counted_by_reason_and_reported_in_one_line(tmp_path, cache, caplog):
    root = tmp_path / "corpus"
    write_ramp(root / "good.wav", 0.3)
    for number in range(5):
        (root / f"empty{number}.wav").touch()
    (root / "broken.flac").write_bytes(b"no audio")
    cut_short = write_ramp(root / "short.wav", 0.3)
    cut_short.write_bytes(cut_short.read_bytes()[:-1000])
    manifest = prepare_manifest(root, cache)
    assert ids(manifest) == ["good.wav"]
    assert manifest.skipped.counts == {"empty": 5, "truncated": 1, "unreadable": 1}
    (line,) = remarks("here", manifest.skipped, manifest.notes)
    assert "of here, left out 7 utterances: 5 empty (empty0.wav, empty1.wav, empty2.wav, …); 1 truncated (sho" in line
    assert not caplog.records


def test_name_that_is_not_utf8_is_skipped(tmp_path, cache):
    write_ramp(tmp_path / "corpus/good.wav", 0.3)
    os.link(tmp_path / "corpus/good.wav", os.fsencode(tmp_path / "corpus") + b"/bad\xff.wav")
    manifest = prepare_manifest(tmp_path / "corpus", cache)
    assert (ids(manifest), manifest.skipped.total) == (["good.wav"], 1)


def test_conversions_are_counted(tmp_path, cache):
    write_ramp(tmp_path / "corpus/stereo.wav", 0.3, channels=2)
    write_ramp(tmp_path / "corpus/telephone.wav", 0.3, rate=8000)
    write_ramp(tmp_path / "corpus/plain.wav", 0.3)
    notes = prepare_manifest(tmp_path / "corpus", cache).notes
    assert str(notes) == (
        "1 are upsampled from less than 16000 Hz (telephone.wav); "
        "1 have several channels and are mixed to mono (stereo.wav)"
    )
    assert remarks("here", Tally(), notes) == [f"of here, {notes}"]


def test_fairseq_manifest(tmp_path, cache):
    write_ramp(tmp_path / "audio/a.wav", 0.3)
    write_ramp(tmp_path / "audio/b.wav", 0.3)
    tsv = tmp_path / "train.tsv"
    tsv.write_text(f"{tmp_path / 'audio'}\na.wav\t4801\nb.wav\t12801\ngone.wav\t4800\na.wav\t4800\n")
    manifest = prepare_manifest(tsv, cache)
    assert ids(manifest) == ["a.wav"]
    assert manifest.skipped.counts == {"shorter than the manifest says": 1, "missing": 1, "listed twice": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{root}\na.wav\t4800\nb.wav 4800\n", r"^Line 3 of .*train\.tsv must be a path .*, but is 'b\.wav 4800'\.$"),
        ("{root}\na.wav\tlong\n", r"^Line 2 of .* but is 'a\.wav\\tlong'\.$"),
        ("{root}\n{root}/a.wav\t4800\n", r"^Line 2 of .* must be a path below the folder of line 1, .*a\.wav"),
        ("{root}/there\n../a.wav\t4800\n", r"^Line 2 of .* must be a path below the folder of line 1, .*'\.\./a"),
        ("/no/such/folder\na.wav\t4800\n", r"^Line 1 of .* must be an existing folder, but is '/no/such/folder'\.$"),
        ("", r"^Line 1 of .* must be an existing folder, but is missing\.$"),
    ],
)
def test_malformed_fairseq_manifest(tmp_path, cache, content, message):
    write_ramp(tmp_path / "a.wav", 0.3)
    (tmp_path / "there").mkdir()
    (tmp_path / "train.tsv").write_text(content.format(root=tmp_path))
    with pytest.raises(ValueError, match=message):
        prepare_manifest(tmp_path / "train.tsv", cache)


@pytest.mark.parametrize("name", ["my_recordings_train.jsonl.gz", "recordings.jsonl"])
def test_lhotse_recordings(tmp_path, cache, name):
    here, gone = write_ramp(tmp_path / "here.wav", 0.3), write_ramp(tmp_path / "gone.wav", 0.3)
    RecordingSet.from_recordings(map(Recording.from_file, (here, gone))).to_file(tmp_path / name)
    gone.unlink()
    manifest = prepare_manifest(tmp_path / name, cache)
    assert (ids(manifest), manifest.skipped.counts) == (["here"], {"missing": 1})


def test_lhotse_cuts(tmp_path, cache):
    recording = Recording.from_file(write_ramp(tmp_path / "long.wav", 1.0))
    cuts = [MonoCut(f"cut{n}", start=n / 4, duration=0.25, channel=0, recording=recording) for n in range(4)]
    beyond = MonoCut("beyond", start=0.9, duration=0.65, channel=0, recording=recording)
    after = MonoCut("after", start=1.1, duration=0.25, channel=0, recording=recording)
    mixed = cuts[0].pad(duration=0.5).with_id("mixed")
    CutSet.from_cuts([*cuts, beyond, after, mixed]).to_file(tmp_path / "cuts.jsonl.gz")
    manifest = prepare_manifest(tmp_path / "cuts.jsonl.gz", cache)
    assert ids(manifest) == ["cut0", "cut1", "cut2", "cut3"]
    assert manifest.skipped.counts == {"shorter than the manifest says": 2, "not a plain cut of a recording": 1}


def test_lhotse_commands_are_not_run(tmp_path, cache):
    """A manifest may come from an untrusted source; lhotse would run its commands, also those of a reverberation."""
    plain = Recording.from_file(write_ramp(tmp_path / "a.wav", 1.0))
    command = AudioSource("command", [0], f"mkdir {tmp_path / 'called'}; cat {tmp_path / 'a.wav'}")
    bad = replace(plain, id="bad", sources=[command])
    reverberated = {"name": "ReverbWithImpulseResponse", "kwargs": {"rir": bad.to_dict()}}
    recordings = [plain, bad, replace(plain, id="echo", transforms=[reverberated])]
    CutSet.from_cuts(
        MonoCut(recording.id, start=0, duration=1.0, channel=0, recording=recording) for recording in recordings
    ).to_file(tmp_path / "cuts.jsonl")
    RecordingSet.from_recordings([plain, bad]).to_file(tmp_path / "recordings.jsonl")
    for name, left_out in (("cuts.jsonl", 2), ("recordings.jsonl", 1)):
        manifest = prepare_manifest(tmp_path / name, cache)
        assert len(ids(manifest)) == 1
        assert manifest.skipped.counts == {"the output of a shell command, which is not run": left_out}
    assert not (tmp_path / "called").exists()
    bad.load_audio()
    assert (tmp_path / "called").exists()


def test_truncated_lhotse_recording(tmp_path, cache):
    path = write_ramp(tmp_path / "a.wav", 1.0)
    RecordingSet.from_recordings([Recording.from_file(path)]).to_file(tmp_path / "recordings.jsonl")
    write_ramp(path, 0.4)
    with pytest.raises(ValueError, match=r"none of 1 can be used: 1 shorter than the manifest says \(a\)"):
        prepare_manifest(tmp_path / "recordings.jsonl", cache)


def test_other_jsonl(tmp_path, cache):
    (tmp_path / "a.jsonl").write_text('{"name": "something else"}\n')
    SupervisionSet.from_segments([]).to_file(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl.gz").write_bytes(b"not gzip")
    for name in ("a.jsonl", "b.jsonl", "c.jsonl.gz"):
        with pytest.raises(ValueError, match=f"{name} must be a lhotse manifest of cuts or recordings, but is not: "):
            prepare_manifest(tmp_path / name, cache)


def test_nothing_usable(tmp_path, cache):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError,
        match=r"at least one usable utterance, but in .*empty there is no audio file \(flac, mp3, ogg, .*wav\)\.$",
    ):
        prepare_manifest(tmp_path / "empty", cache)
    (tmp_path / "empty" / "a.wav").touch()
    with pytest.raises(ValueError, match=r"but in .*empty none of 1 can be used: 1 empty \(a\.wav\)\.$"):
        prepare_manifest(tmp_path / "empty", cache)
    (tmp_path / "song.mid").touch()
    with pytest.raises(ValueError, match=r"must be a folder of audio, .* but is .*song\.mid\.$"):
        prepare_manifest(tmp_path / "song.mid", cache)


def test_prepared_once_until_a_file_changes(corpus, cache, monkeypatch):
    looked_at = []
    original = scanning.measure
    monkeypatch.setattr(scanning, "measure", lambda path: looked_at.append(path) or original(path))
    first = prepare_manifest(corpus, cache)
    assert len(looked_at) == 40
    assert prepare_manifest(corpus, cache) == first
    assert len(looked_at) == 40
    os.utime(corpus / "speaker0/u00.wav", ns=(1, 1))
    assert prepare_manifest(corpus, cache).fingerprint != first.fingerprint
    assert len(looked_at) == 80
    write_ramp(corpus / "new.wav", 0.3)
    assert "new.wav" in ids(prepare_manifest(corpus, cache))


def test_interrupted_preparation_is_repeated(corpus, cache, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "_as_plain", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_manifest(corpus, cache)
    with pytest.raises(RuntimeError, match=r"must be prepared before it is used, but is not; call `prepare_data\(\)`"):
        read_manifest(corpus, cache)
    assert len(ids(prepare_manifest(corpus, cache))) == 40


def test_interrupted_rescan_does_not_use_the_old_manifest(corpus, cache, monkeypatch):
    prepare_manifest(corpus, cache)
    added = write_ramp(corpus / "added.wav", 0.3)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "_as_plain", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_manifest(corpus, cache)
    added.unlink()
    assert "added.wav" not in ids(prepare_manifest(corpus, cache))


def test_order_and_content_do_not_depend_on_the_order_of_files(corpus, cache, tmp_path, monkeypatch):
    first = prepare_manifest(corpus, cache).cuts.read_text()
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: nullcontext(list(scandir(path))[::-1]))
    assert prepare_manifest(corpus, tmp_path / "other").cuts.read_text() == first
    assert [json.loads(line)["id"] for line in first.splitlines()] != sorted(ids(read_manifest(corpus, cache)))


@pytest.mark.parametrize("more", [0.001, 0.058, 0.49])
def test_a_slightly_shorter_recording_is_used_with_its_true_length(tmp_path, cache, more):
    path = write_ramp(tmp_path / "a.wav", 1.0)
    recording = Recording.from_file(path)
    longer = replace(recording, num_samples=recording.num_samples + round(more * RATE), duration=1.0 + more)
    RecordingSet.from_recordings([longer]).to_file(tmp_path / "recordings.jsonl")
    manifest = prepare_manifest(tmp_path / "recordings.jsonl", cache)
    (cut,) = CutSet.from_jsonl_lazy(manifest.cuts)
    assert (cut.duration, cut.num_samples, cut.recording.num_samples) == (1.0, RATE, RATE)
    assert bool(manifest.notes) == (more > 0.025)
    batch = SpeechDataset(2 * RATE, crop_to_shortest=True, seed=0, random=False).read([cut])
    assert batch.num_samples == (RATE,)


def test_a_recording_has_the_rate_of_its_file(tmp_path, cache):
    """Other decoders read Opus at 48 kHz, libsndfile at the sampling rate of the encoder's input."""
    path = write_ramp(tmp_path / "a.wav", 1.0)
    other = replace(Recording.from_file(path), sampling_rate=48_000, num_samples=48_000)
    RecordingSet.from_recordings([other]).to_file(tmp_path / "recordings.jsonl")
    (cut,) = CutSet.from_jsonl_lazy(prepare_manifest(tmp_path / "recordings.jsonl", cache).cuts)
    assert (cut.sampling_rate, cut.num_samples, cut.duration) == (RATE, RATE, 1.0)


def test_unsupported_audio_is_counted_with_a_conversion_command(tmp_path, cache):
    root = tmp_path / "corpus"
    root.mkdir()
    for name in ("a.m4a", "b.M4A", "c.webm", "d.wma", "e.aac"):
        (root / name).write_bytes(b"something")
    with pytest.raises(
        ValueError, match=r"none of 5 can be used: 1 \.aac, not read: convert .*2 \.m4a, not read: conv"
    ):
        prepare_manifest(root, cache)
    write_ramp(root / "good.wav", 0.3)
    manifest = prepare_manifest(root, cache)
    assert (ids(manifest), manifest.skipped.total) == (["good.wav"], 5)
    (line,) = remarks("here", manifest.skipped, manifest.notes)
    assert "2 .m4a, not read: convert with `ffmpeg -i X.m4a -vn X.flac` (a.m4a, b.M4A)" in line
    assert "are in" not in remarks("here", manifest.skipped, manifest.notes, manifest.left_out)[0]
    (tmp_path / "train.tsv").write_text(f"{root}\ngood.wav\t4800\na.m4a\t4800\n")
    assert list(prepare_manifest(tmp_path / "train.tsv", cache).skipped.counts) == [
        ".m4a, not read: convert with `ffmpeg -i X.m4a -vn X.flac`"
    ]


def test_all_that_are_left_out_are_in_a_file(corpus, cache):
    """Some in the listing, some in the scan, more than the log has as examples; with names that need quotes."""
    names = sorted([*(f"empty{number}.wav" for number in range(5)), "a\nb.wav", "я.m4a"])
    for name in names:
        (corpus / name).write_bytes(b"")
    manifest = prepare_manifest(corpus, cache)
    (line,) = remarks("here", manifest.skipped, manifest.notes, manifest.left_out)
    assert line.endswith(f"(all that the scan left out are in {manifest.left_out})")
    assert manifest.left_out is not None
    found = [row.split("\t") for row in manifest.left_out.read_text(encoding="utf-8").splitlines()]
    assert sorted(name for _, name in found) == sorted(["'a\\nb.wav'" if "\n" in name else name for name in names])
    assert [reason for reason, _ in found].count("empty") == 6
    assert read_manifest(corpus, cache).left_out == manifest.left_out
    for name in names:
        (corpus / name).unlink()
    assert prepare_manifest(corpus, cache).left_out is None


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_fairseq_manifest_with_a_byte_order_mark_and_odd_names(tmp_path, cache, start, end):
    names = ["plain.wav", "a\u2028b.wav", "a\x85b.wav", "a\x0cb.wav", " spaces .wav"]
    for name in names:
        write_ramp(tmp_path / "audio" / name, 0.3)
    lines = [str(tmp_path / "audio"), *(f"{name}\t4800" for name in names)]
    (tmp_path / "train.tsv").write_bytes((start + "".join(line + end for line in lines)).encode())
    assert ids(prepare_manifest(tmp_path / "train.tsv", cache)) == sorted(names)
    assert ids(prepare_manifest(tmp_path / "audio", cache)) == sorted(names)


@pytest.mark.parametrize("where", ["listing.Spool.append", "manifests.Lines.extend", "manifests.Lines.write"])
def test_a_full_disk_is_one_line(corpus, cache, monkeypatch, where):
    def write(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"w2vlab.data.corpora.{where}", write)
    with pytest.raises(ValueError, match=r"^`cache_dir` must have room for the manifest .* is full; free some [^\n]*$"):
        prepare_manifest(corpus, cache)
    monkeypatch.undo()
    assert len(list(CutSet.from_file(prepare_manifest(corpus, cache).cuts))) == 40


def test_two_nodes_may_scan_into_one_folder(corpus, cache, monkeypatch):
    """In containers both processes may have the same number."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    manifest, names = prepare_manifest(corpus, cache), set()
    content = manifest.cuts.read_bytes()
    for file in manifest.cuts.parent.iterdir():
        file.unlink()
    really = Path.replace

    def replace(self, target):
        names.add(self.name)
        if len(names) == 1:  # the other node has got so far, too
            prepare_manifest(corpus, cache)
        return really(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    assert prepare_manifest(corpus, cache).cuts.read_bytes() == content
    assert len(names) == 4


def test_older_scan_versions_are_not_reused(corpus, cache, monkeypatch):
    now = prepare_manifest(corpus, cache).fingerprint
    monkeypatch.setattr(listing, "SCAN_VERSION", b"another")
    assert prepare_manifest(corpus, cache).fingerprint != now


def test_a_manifest_may_name_other_files_that_libsndfile_reads(tmp_path, cache):
    write_ramp(tmp_path / "audio" / "a.aiff", 0.3)
    (tmp_path / "train.tsv").write_text(f"{tmp_path / 'audio'}\na.aiff\t4800\n")
    assert ids(prepare_manifest(tmp_path / "train.tsv", cache)) == ["a.aiff"]
    with pytest.raises(ValueError, match=r"none of 1 can be used: 1 \.aiff, not read"):
        prepare_manifest(tmp_path / "audio", cache)
