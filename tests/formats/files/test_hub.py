"""Models of the Hub from a cache of its layout, and the errors without one; nothing is downloaded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from w2vlab.formats.files.hub import cache_folder, hub_folder, is_hub_name, snapshot_of

COMMIT = "a" * 40
OTHER = "b" * 40

Cached = Callable[..., Path]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cached:
    """Writes a snapshot into an empty cache, with the branch that has it."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    def write(model: str, commit: str = COMMIT, branch: str | None = "main", weights: bool = True) -> Path:
        folder = tmp_path / f"models--{model.replace('/', '--')}"
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        if weights:
            (snapshot / "model.safetensors").write_text("")
        if branch is not None:
            reference = folder / "refs" / branch
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit)
        return snapshot

    return write


def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a download fail as on a machine without a network."""
    import huggingface_hub

    def fail(*_: Any, **__: Any) -> str:
        raise OSError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)


@pytest.mark.parametrize(
    ("source", "commit"),
    [
        ("hf:org/name", COMMIT),
        ("hf:org/name@main", COMMIT),
        ("hf:org/name@refs/pr/1", OTHER),
        (f"hf:org/name@{OTHER}", OTHER),
        ("hf:single", COMMIT),
    ],
)
def test_the_cache_is_read_first(cached: Cached, monkeypatch: pytest.MonkeyPatch, source: str, commit: str) -> None:
    no_download(monkeypatch)
    expected = {COMMIT: cached("org/name"), OTHER: cached("org/name", OTHER, "refs/pr/1")}
    if "/" not in source:
        expected[COMMIT] = cached("single")
    assert hub_folder(source) == expected[commit]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "~/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/huggingface/hub"),
        ({"HF_HOME": "/home", "XDG_CACHE_HOME": "/xdg"}, "/home/hub"),
        ({"HF_HUB_CACHE": "/cache", "HF_HOME": "/home"}, "/cache"),
        ({"HF_HOME": "~/models"}, "~/models/hub"),
    ],
)
def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder).expanduser()


def test_a_folder_of_the_cache_is_as_good_as_its_snapshot(cached: Cached) -> None:
    snapshot = cached("org/name")
    cached("org/name", OTHER, "refs/pr/1")
    assert snapshot_of(snapshot.parent.parent) == snapshot
    assert snapshot_of(snapshot) == snapshot
    by_commit = cached("org/other", OTHER, branch=None)
    assert snapshot_of(by_commit.parent.parent) == by_commit


def test_a_folder_of_the_cache_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models--org--name" / "snapshots").mkdir(parents=True)
    with pytest.raises(ValueError, match="must have the files of a model below snapshots, but has none"):
        snapshot_of(tmp_path / "models--org--name")


def test_what_the_cache_lacks_is_downloaded(cached: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the files that are read, and pickles only if there are no safetensors."""
    import huggingface_hub

    snapshot = cached("org/name", weights=False)  # another program has read the options alone
    asked: list[list[str]] = []

    def download(model: str, *, revision: str, cache_dir: Path, allow_patterns: list[str]) -> str:
        assert (model, revision, cache_dir) == ("org/name", "main", cache_folder())
        asked.append(allow_patterns)
        if len(asked) == 2:
            (snapshot / "pytorch_model.bin").write_text("")
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub_folder("hf:org/name") == snapshot
    assert asked == [["*.json", "model*.safetensors"], ["*.json", "pytorch_model*.bin"]]


def test_a_model_without_weights_is_refused(cached: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    snapshot = cached("org/name", weights=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    with pytest.raises(ValueError, match="`source` must have weights, but hf:org/name has none of model"):
        hub_folder("hf:org/name")


@pytest.mark.usefixtures("cached")
def test_without_a_network_the_error_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    no_download(monkeypatch)
    message = r"`init_from` must be in the cache of the Hub \(.*\) or be downloaded, but hf:org/name .*: no network"
    with pytest.raises(ValueError, match=message) as problem:
        hub_folder("hf:org/name", "init_from")
    assert "\n" not in str(problem.value)


@pytest.mark.usefixtures("cached")
def test_without_huggingface_hub_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"huggingface_hub is not installed .*: pip install huggingface_hub"):
        hub_folder("hf:org/name")


@pytest.mark.parametrize(
    "source",
    [
        "hf:",
        "hf:../../etc",
        "hf:org/..",
        "hf:org/name@../../x",
        "hf:a/b/c",
        "hf:/etc",
        "hf:org/na me",
        "hf:org/name@a//b",
    ],
)
def test_names_that_are_none_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"`source` must be hf:ORG/NAME or hf:ORG/NAME@REVISION, but is"):
        hub_folder(source)


def test_names_of_the_hub() -> None:
    assert is_hub_name("hf:org/name")
    assert not is_hub_name("org/name")
    assert not is_hub_name(Path("hf:org/name"))


def test_a_reference_out_of_the_cache_is_not_followed(cached: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    no_download(monkeypatch)
    snapshot = cached("org/name")
    (snapshot.parent.parent / "refs" / "main").write_text("../..")
    with pytest.raises(ValueError, match="must be in the cache of the Hub"):
        hub_folder("hf:org/name")
