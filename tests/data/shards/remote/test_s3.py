"""Shards of a bucket, on the server of moto."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.shards.making import audio_of, encoded, write_index, write_shar, write_tar
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.data.corpora.sample_corpora import fetch
from w2vlab.data.corpora.utterances import Utterances
from w2vlab.data.shards import reading
from w2vlab.data.shards.remote import s3
from w2vlab.data.shards.remote.copies import local_copy, register
from w2vlab.data.shards.remote.retries import retries
from w2vlab.data.shards.remote.transport import FetchError
from w2vlab.data.shards.shard import ShardFile

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed: pip install 'w2vlab[s3]'")
moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]'")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def client(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3, "_clients", {})
    reading._open.clear()
    found = boto3.client("s3")
    found.create_bucket(Bucket="corpus")
    yield found
    for entry in found.list_objects_v2(Bucket="corpus").get("Contents", ()):
        found.delete_object(Bucket="corpus", Key=entry["Key"])
    found.delete_bucket(Bucket="corpus")


def upload(client: Any, folder: Path, prefix: str) -> None:
    for path in sorted(folder.iterdir()):
        client.upload_file(str(path), "corpus", f"{prefix}{path.name}")


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("prefix", ["", "a/b c/"])
def test_audio_and_keys_are_those_of_the_local_folder(
    client: Any, tmp_path: Path, cache: Path, indexed: bool, prefix: str
) -> None:
    shar = write_shar(tmp_path / "shar")
    if indexed:
        write_index(shar)
    upload(client, shar, prefix)
    local = prepare_manifest(shar, tmp_path / "local").cuts
    remote = prepare_manifest(fetch(f"s3://corpus/{prefix}", cache), cache).cuts
    assert Utterances(remote, 1).digest == Utterances(local, 1).digest
    ours, theirs = audio_of(remote), audio_of(local)
    assert len(ours) == 10
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("corpus", ["s3://corpus/tars", "s3://corpus/tars/a-{0..1}.tar"])
def test_webdatasets(client: Any, tmp_path: Path, cache: Path, corpus: str) -> None:
    for shard in range(2):
        write_tar(tmp_path / "t" / f"a-{shard}.tar", {f"{shard}{n}.flac": encoded(n) for n in range(3)})
    upload(client, tmp_path / "t", "tars/")
    assert len(audio_of(prepare_manifest(fetch(corpus, cache), cache).cuts)) == 6


def test_a_missing_tar_is_counted(client: Any, tmp_path: Path, cache: Path) -> None:
    shar = write_shar(tmp_path / "shar")
    (shar / "recording.000001.tar").unlink()
    upload(client, shar, "x/")
    manifest = prepare_manifest(fetch("s3://corpus/x", cache), cache)
    assert manifest.skipped.counts == {"shard without its recording.000001.tar": 1}


def test_a_fetch_is_resumed_unless_the_file_has_changed(client: Any, tmp_path: Path, cache: Path) -> None:
    data = bytes(range(256)) * 1000
    client.put_object(Bucket="corpus", Key="a.tar", Body=data)
    tag = client.head_object(Bucket="corpus", Key="a.tar")["ETag"]
    for known, have in ((tag, data[:1000]), ('"other"', bytes(1000)), (tag, data), (tag, data + b"more")):
        file = ShardFile("s3://corpus/a.tar", len(data), None, known)
        place = register(file, cache)
        place.with_name(place.name + ".part").write_bytes(have)
        assert local_copy(place, file.location).read_bytes() == data
        place.unlink()
    retries.total = 0


def test_what_will_not_pass_is_said_at_once(client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FetchError, match=r"^s3://nothing/x/?(shards.json)?: NoSuchBucket, it does not exist: check"):
        prepare_manifest(fetch("s3://nothing/x", cache), cache)
    with pytest.raises(ValueError, match=r"in s3://corpus/x there is no tar\."):
        prepare_manifest(fetch("s3://corpus/x", cache), cache)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(s3, "_clients", {})
    with pytest.raises(FetchError, match=r"Unable to locate credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET"):
        prepare_manifest(fetch("s3://corpus/x", cache), cache)
    assert retries.total == 0


def test_a_server_that_is_away(client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("W2VLAB_FETCH_PATIENCE", "0.1")
    monkeypatch.setattr(s3, "_clients", {})
    with pytest.raises(FetchError, match=r"^s3://corpus/x/shards.json: Could not connect .*attempt"):
        prepare_manifest(fetch("s3://corpus/x", cache), cache)
    assert retries.total >= 1


def test_keys_that_are_refused(client: Any, cache: Path) -> None:
    from botocore.exceptions import ClientError

    error = ClientError({"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "GetObject")
    with (
        pytest.raises(FetchError, match=r"^s3://b/k: AccessDenied, it is refused: set AWS"),
        s3._translated("s3://b/k"),
    ):
        raise error


def test_boto3_is_named_if_it_is_missing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ValueError, match=r"needs boto3, which is not installed: pip install 'w2vlab\[s3\]'"):
        prepare_manifest(fetch("s3://corpus/x", cache), cache)
