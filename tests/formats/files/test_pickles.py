"""Pickles of other projects: what is opened, as what, and what is refused without being run."""

from __future__ import annotations

import argparse
import builtins
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from w2vlab.formats.files import pickles
from w2vlab.formats.files.pickles import read_pickle

LAYOUTS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(path: Path, content: Any, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def replace_pickle(path: Path, pickled: bytes) -> Path:
    """Gives a zip archive of PyTorch another pickle, with valid checksums."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries:
            archive.writestr(name, pickled if name.endswith("/data.pkl") else data)
    return path


class Runs:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@LAYOUTS
def test_tensors_and_options_are_those_that_were_saved(tmp_path: Path, zipped: bool) -> None:
    inner = argparse.Namespace(layers=[(1, 2), (3, 4)], name="inner")
    content = {
        "args": argparse.Namespace(rate=0.5, none=None, flag=True, inner=inner),
        "model": OrderedDict(
            half=torch.randn(3, 4).half(),
            float=torch.randn(2),
            parameter=torch.nn.Parameter(torch.ones(2)),
            transposed=torch.arange(6).view(2, 3).t(),
            brain=torch.randn(3).bfloat16(),
        ),
        "extra": {"epoch": 3, 4: torch.float16, "shape": torch.Size([1, 2])},
    }
    read = read_pickle(save(tmp_path / "file.pt", content, zipped))
    assert read["args"] == {
        "rate": 0.5,
        "none": None,
        "flag": True,
        "inner": {"layers": [(1, 2), (3, 4)], "name": "inner"},
    }
    assert read["extra"] == {"epoch": 3, 4: torch.float16, "shape": (1, 2)}
    assert type(read["model"]) is dict
    for name, tensor in content["model"].items():
        assert torch.equal(read["model"][name], tensor)
        assert read["model"][name].dtype == tensor.dtype
        assert not read["model"][name].requires_grad


@LAYOUTS
@pytest.mark.parametrize("name", ["file.safetensors", "file.ckpt", "file"])
def test_the_name_of_a_file_says_nothing(tmp_path: Path, zipped: bool, name: str) -> None:
    content = {"args": argparse.Namespace(a=1), "model": {"w": torch.ones(3)}}
    read = read_pickle(save(tmp_path / name, content, zipped))
    assert read["args"] == {"a": 1}
    assert torch.equal(read["model"]["w"], torch.ones(3))


@pytest.fixture
def omegaconf(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Classes with the names and the pickled state of OmegaConf 2.4's, which is not installed here."""
    made: dict[str, type] = {}
    for place in (
        "dictconfig.DictConfig",
        "listconfig.ListConfig",
        "nodes.AnyNode",
        "base.Metadata",
        "base.ContainerMetadata",
    ):
        module, name = f"omegaconf.{place.split('.')[0]}", place.split(".")[1]
        made[name] = type(name, (), {"__module__": module})
        known = sys.modules.get(module) or types.ModuleType(module)
        setattr(known, name, made[name])
        monkeypatch.setitem(sys.modules, module, known)
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    return types.SimpleNamespace(**made)


def tree(classes: types.SimpleNamespace, value: Any, parent: Any = None, key: Any = None) -> Any:
    """A value as OmegaConf stores it; `test_the_bytes_are_those_of_omegaconf` compares this with the library's."""
    container = isinstance(value, dict | list)
    node = (classes.DictConfig if isinstance(value, dict) else classes.ListConfig if container else classes.AnyNode)()
    metadata = (classes.ContainerMetadata if container else classes.Metadata)()
    metadata.__dict__.update(
        ref_type=Any,
        object_type=type(value) if container else None,
        optional=True,
        key=key,
        flags={},
        flags_root=False,
        resolver_cache=defaultdict(dict),
    )
    if container:
        metadata.__dict__.update(key_type=Any if isinstance(value, dict) else int, element_type=Any)
    node.__dict__.update(_metadata=metadata, _parent=parent)
    if isinstance(value, dict):
        node._content = {name: tree(classes, inner, node, name) for name, inner in value.items()}
    elif isinstance(value, list):
        node._content = [tree(classes, inner, node, number) for number, inner in enumerate(value)]
    else:
        node._val = value
    return node


OPTIONS = {
    "_name": None,
    "model": {"_name": "wav2vec2", "a": 1, "l": [1, 2.5, "x"], "b": True, "n": None, "i": "${task.normalize}"},
    "task": {"normalize": True, "missing": "???", "nested": [[1], {"deep": [2]}]},
}


@LAYOUTS
def test_trees_of_omegaconf_become_dictionaries(tmp_path: Path, omegaconf: Any, zipped: bool) -> None:
    path = save(tmp_path / "file.pt", {"cfg": tree(omegaconf, OPTIONS), "model": {"w": torch.ones(2)}}, zipped)
    pickled = zipfile.ZipFile(path).read("file/data.pkl") if zipped else path.read_bytes()
    for name in (
        b"omegaconf.dictconfig\nDictConfig",
        b"omegaconf.base\nContainerMetadata",
        b"collections\ndefaultdict",
    ):
        assert name in pickled
    for module in list(sys.modules):
        if module.startswith("omegaconf"):
            del sys.modules[module]
    assert read_pickle(path)["cfg"] == OPTIONS
    assert not any(module.startswith(("omegaconf", "fairseq")) for module in sys.modules)


def test_the_bytes_are_those_of_omegaconf(omegaconf: Any) -> None:
    """Pickled by OmegaConf 2.4.0: `pickle.dumps(OmegaConf.create({"a": [1], "b": "${a}"}), protocol=2)`."""
    recorded = (Path(__file__).parent / "omegaconf.pkl").read_bytes()
    assert pickle.dumps(tree(omegaconf, {"a": [1], "b": "${a}"}), protocol=2) == recorded


def test_a_file_with_omegaconf_s_own_bytes_is_opened(tmp_path: Path) -> None:
    path = save(tmp_path / "file.pt", {})
    replace_pickle(path, (Path(__file__).parent / "omegaconf.pkl").read_bytes())
    assert read_pickle(path) == {"a": [1], "b": "${a}"}


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls of functions that a file should not reach."""
    calls: list[str] = []
    monkeypatch.setattr(os, "system", lambda command: calls.append(command))
    return calls


HOSTILE: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "builtins.eval": (eval, ("__import__('os').system('x')",)),
    "builtins.exec": (exec, ("import os; os.system('x')",)),
    "builtins.getattr": (getattr, ((), "count")),
    "builtins.__import__": (builtins.__import__, ("antigravity",)),
    "builtins.bytearray": (bytearray, (16,)),
    "torch.hub.load": (torch.hub.load, ("a/b", "c")),
    "torch.serialization.load": (torch.load, ("file",)),
    "io.open": (io.open, ("file",)),
    "subprocess.Popen": (__import__("subprocess").Popen, (["true"],)),
}


@LAYOUTS
@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_would_run_code_is_refused_by_name(tmp_path: Path, zipped: bool, name: str) -> None:
    path = save(tmp_path / "file.pt", {"model": {"w": torch.ones(2)}, "args": Runs(*HOSTILE[name])}, zipped)
    with pytest.raises(
        ValueError, match=r"^`source` must be .* cannot be read \(refused: loading it would run"
    ) as error:
        read_pickle(path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@LAYOUTS
def test_a_shell_command_is_not_run(tmp_path: Path, zipped: bool) -> None:
    path = save(tmp_path / "file.pt", {"args": Runs(os.system, f"touch {tmp_path / 'run'}")}, zipped)
    with pytest.raises(ValueError, match=r"would run (posix|nt)\.system"):
        read_pickle(path)
    assert not (tmp_path / "run").exists()


@LAYOUTS
def test_arrays_of_numpy_are_refused(tmp_path: Path, zipped: bool) -> None:
    path = save(tmp_path / "file.pt", {"extra": np.ones(3)}, zipped)
    with pytest.raises(ValueError, match=r"would run .*numpy\._?core\.multiarray\._reconstruct, numpy\.dtype"):
        read_pickle(path)


def test_what_the_process_allows_is_refused_all_the_same(tmp_path: Path) -> None:
    path = save(tmp_path / "file.pt", {"args": Runs(types.SimpleNamespace)})
    before = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals([types.SimpleNamespace]):
        assert torch.load(path, weights_only=True)["args"] == types.SimpleNamespace()
        with pytest.raises(ValueError, match=r"would run types\.SimpleNamespace"):
            read_pickle(path)
    assert set(torch.serialization.get_safe_globals()) == before


def test_protocols_that_pytorch_does_not_write_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "file.pt", {})
    replace_pickle(path, pickle.dumps({"args": Runs(eval, "1")}, protocol=4))
    with pytest.raises(ValueError, match=r"would run builtins\.eval"):
        read_pickle(path)
    replace_pickle(path, pickle.dumps({"args": 1}, protocol=4))
    with pytest.raises(ValueError, match="it is a pickle of protocol 4"):
        read_pickle(path)


def test_an_allowed_class_can_be_called_without_effect(tmp_path: Path) -> None:
    """A pickle that calls what it may name gets objects that hold nothing, which are refused."""
    for name in ("int", "dict", "str", "list"):
        pickled = b"\x80\x02c__builtin__\n" + name.encode() + b"\n(X\x01\x00\x00\x007tR."
        with pytest.raises(ValueError, match=f"it holds an object of type builtins.{name}"):
            read_pickle(replace_pickle(save(tmp_path / "file.pt", {}), pickled))


def test_attributes_of_stand_ins_cannot_be_set(tmp_path: Path) -> None:
    """The second half of a state is set by `setattr` if a class does not define how its state is restored."""
    pickled = b"\x80\x02cargparse\nNamespace\n)\x81}}X\x09\x00\x00\x00__class__cargparse\nNamespace\ns\x86b."
    with pytest.raises(ValueError, match="the state of an object must be a dictionary"):
        read_pickle(replace_pickle(save(tmp_path / "file.pt", {}), pickled))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: nested(50), "more than 40 levels"),
        (lambda: doubled(25), "1,000,000 values"),
        (lambda: itself(), "more than 40 levels"),
    ],
)
def test_options_are_bounded(tmp_path: Path, content: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_pickle(save(tmp_path / "file.pt", {"cfg": content()}))


def test_a_pickle_of_countless_operations_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a byte each, they take minutes to list, and no memory."""
    monkeypatch.setattr(pickles, "_MAX_OPERATIONS", 1000)
    path = tmp_path / "file.pt"
    path.write_bytes(b"\x80\x02" + b"N0" * 600 + b"N.")
    with pytest.raises(ValueError, match="more than 1,000 operations"):
        read_pickle(path)


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 0


def doubled(times: int) -> Any:
    """A list of 2 ** `times` values in a few bytes."""
    values: Any = [0]
    for _ in range(times):
        values = [values, values]
    return values


def itself() -> Any:
    values: list[Any] = []
    values.append(values)
    return values


def test_tensors_without_numbers_in_the_file_are_refused(tmp_path: Path) -> None:
    for tensor in (torch.empty(3, device="meta"), torch.eye(3).to_sparse()):
        with pytest.raises(ValueError, match=r"cannot be read \(refused: loading it would run torch\._utils\._rebuild"):
            read_pickle(save(tmp_path / "file.pt", {"w": tensor}))


@LAYOUTS
def test_truncated_files_are_refused(tmp_path: Path, zipped: bool) -> None:
    path = save(tmp_path / "file.pt", {"model": {"w": torch.randn(1000)}, "args": argparse.Namespace(a=1)}, zipped)
    data = path.read_bytes()
    for length in (1, 2, 30, 200, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"^`source` must be a checkpoint of tensors and plain options, but"):
            read_pickle(path)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / "file.pt", {"w": torch.zeros(5000)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"the checksum of .* does not match"):
        read_pickle(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"hello, this is text\n" * 50, "neither a zip archive nor a pickle"),
        (struct.pack("<Q", 64) + b'{"w":{"dtype":"F32"}}' * 4, "neither a zip archive nor a pickle"),
        (pickle.dumps({"a": 1}, protocol=2), "truncated or damaged"),
        (b"PK\x03\x04" + b"x" * 100, "may be truncated"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        read_pickle(path, name="checkpoint")
    assert str(error.value).startswith("`checkpoint` must be")


def test_other_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "x")
    with pytest.raises(ValueError, match="a zip archive, but not of PyTorch"):
        read_pickle(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("file/constants.pkl", "x")
        archive.writestr("file/data.pkl", "x")
    with pytest.raises(ValueError, match="a program of TorchScript"):
        read_pickle(path)


def test_places_that_are_no_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path, "not a regular"),
        (tmp_path / "pipe", "not a regular"),
        (tmp_path / "no", "exist"),
    ):
        with pytest.raises(ValueError, match=f"^`source` must be an existing checkpoint file, but .*{message}"):
            read_pickle(path)


def test_tensors_are_read_when_they_are_used(tmp_path: Path) -> None:
    """Those of a zip archive are views of the file."""
    read = read_pickle(save(tmp_path / "file.pt", {"w": torch.ones(100_000)}))
    mapped = Path("/proc/self/maps")
    if not mapped.exists():
        pytest.skip("The system does not list what is mapped.")
    assert str(tmp_path / "file.pt") in mapped.read_text()
    assert float(read["w"].sum()) == 100_000
