"""What `w2vlab prepare --shards` writes is read from its folder and from a server as the corpus that it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data.shards.making import audio_of
from tests.data.shards.remote.serving import Server
from tests.preparation.conftest import silent, write_corpus
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.data.corpora.sample_corpora import fetch
from w2vlab.data.corpora.utterances import Utterances
from w2vlab.preparation.preparing import prepare
from w2vlab.preparation.settings import Settings


def test_from_the_folder_and_from_a_server(server: Server, tmp_path: Path, cache: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    out = server.folder / "out"
    settings = Settings(
        source=str(corpus), out=out, shards=True, shard_utterances=5, processes=1, cache_dir=tmp_path / "prepared"
    )
    list(prepare(settings, silent))
    original = audio_of(prepare_manifest(corpus, cache).cuts)
    found = {}
    for name, url in (("folder", str(out)), ("server", server.url("out"))):
        manifest = prepare_manifest(fetch(url, cache), cache)
        assert not manifest.skipped
        audio = audio_of(manifest.cuts)
        assert {*audio} == {*original}
        for utterance, samples in audio.items():
            # Half a step of 24 bits, at the level of audio above full scale, which has a gain.
            assert np.abs(samples - original[utterance]).max() <= 8 * 2.0**-24
        assert max(np.abs(samples).max() for samples in audio.values()) > 1
        found[name] = Utterances(manifest.cuts, 1).digest
    assert found["folder"] == found["server"]  # a run can be resumed after its corpus has moved
