"""Opens PyTorch's files of other projects without running code in them.

Files of fairseq hold objects: `argparse.Namespace`, trees of OmegaConf, dictionaries of symbols. PyTorch's restricted
unpickler gets stand-in classes under these names, which keep what was pickled and do nothing. Before that, the
operations of the pickle are listed; a file that names anything else is refused, whatever the process has added to
`torch.serialization.add_safe_globals`.
"""

from __future__ import annotations

import pickletools
import re
import threading
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from w2vlab.formats.files.archives import find_damage, first_line, refusal, starts_as_zip
from w2vlab.utils.messages import one_line

_MAX_DEPTH, _MAX_VALUES = 40, 1_000_000
"""Limits of what a file holds besides the numbers of tensors, which may be nested deeply or refer to itself."""

_MAX_PICKLE_BYTES = 64 << 20
"""Limit of a pickle without the numbers of its tensors; that of 24 layers with their optimizer has 0.3 MB."""

_MAX_OPERATIONS = 5_000_000
"""Limit of the operations of a pickle; each of them can be a single byte, and listing them takes a microsecond."""

_NUM_LEGACY_PICKLES = 5
"""Pickles of a file that is not a zip archive: magic number, version, platform, content and names of the storages."""

_MAX_PROTOCOL = 3
"""Latest protocol of pickles without operations that PyTorch's restricted unpickler does not have."""

_LOCK = threading.Lock()
"""The list of classes that PyTorch's unpickler accepts belongs to the process."""


class _StandIn:
    """Keeps the state of a pickled object, and does nothing with it."""

    state: Any = None

    def __new__(cls, *_: object) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise ValueError("the state of an object must be a dictionary")
        self.state = state


class _Options(_StandIn):
    """`argparse.Namespace`, or a dictionary of symbols: the attributes are the content."""


class _Tree(_StandIn):
    """A container of OmegaConf."""


class _Leaf(_StandIn):
    """A value of OmegaConf."""


class _Marker(_StandIn):
    """A type or bookkeeping of OmegaConf, of which nothing is read."""


def _stand_in(base: type[_StandIn], name: str) -> tuple[type, str]:
    return type(name.replace(".", "_"), (base,), {}), name


_STAND_INS = [
    _stand_in(_Options, "argparse.Namespace"),
    _stand_in(_Options, "fairseq.data.dictionary.Dictionary"),
    _stand_in(_Tree, "omegaconf.dictconfig.DictConfig"),
    _stand_in(_Tree, "omegaconf.listconfig.ListConfig"),
    _stand_in(_Leaf, "omegaconf.nodes.AnyNode"),
    _stand_in(_Marker, "omegaconf.base.Metadata"),
    _stand_in(_Marker, "omegaconf.base.ContainerMetadata"),
    _stand_in(_Marker, "collections.defaultdict"),
    _stand_in(_Marker, "typing.Any"),
    *(_stand_in(_Marker, f"builtins.{name}") for name in ("dict", "list", "int", "float", "str", "bool")),
]
"""The classes that a file may name besides tensors, each with the name under which its stand-in is found."""

_OF_TENSORS = {
    "collections.OrderedDict",
    "torch.Size",
    "torch.Tensor",
    "torch.device",
    "torch.nn.parameter.Parameter",
    *(f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3", "parameter")),
    "torch.storage.UntypedStorage",
    "torch.storage.TypedStorage",
    *(f"torch.{name}" for name in dir(torch) if name.endswith("Storage")),
    *(str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)),
}
"""What files of plain tensors name."""

_ALLOWED = _OF_TENSORS | {name for _, name in _STAND_INS}

_ATOMS = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device)


def read_pickle(path: str | Path, name: str = "source") -> Any:
    """Opens a file of `torch.save` without running code in it.

    Zip archives are verified by their checksums and memory-mapped, so that a tensor is read when it is used. Older
    files, which are not zip archives, have no checksums and are read whole.

    Args:
        path: Path of the file.
        name: Option with the path, for errors.

    Returns:
        The content: tensors, and plain data. A `Namespace` and OmegaConf's trees become dictionaries and lists.

    Raises:
        ValueError: The file is missing, damaged, not of PyTorch, or names anything that could run code.
    """
    path = Path(path)
    if not path.is_file():  # opening a pipe would block until a process writes to it
        kind = "is not a regular file" if path.exists() else "does not exist"
        raise ValueError(f"`{name}` must be an existing checkpoint file, but {path} {kind}.")
    why = _find_problem(path)
    if why is None:
        try:
            return _Copier(path.stat().st_size).copy(_load(path), 0)
        except Exception as error:  # PyTorch reports damage as RuntimeError, EOFError, UnpicklingError, KeyError, …
            why = str(error) if isinstance(error, _NotPlainError) else _reason(error)
    raise ValueError(f"`{name}` must be a checkpoint of tensors and plain options, but {path} cannot be read ({why}).")


def _reason(error: Exception) -> str:
    """Returns the cause in PyTorch's message, which begins with advice."""
    found = re.search(r"WeightsUnpickler error: ([^\n]+)", str(error))
    return one_line(found[1], 120).strip() if found else first_line(error)


def _load(path: Path) -> Any:
    stand_ins: list[Any] = list(_STAND_INS)
    with _LOCK, torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that storages are typed, or that the pickle's protocol is unusual
        if path.suffix == ".safetensors":  # PyTorch would read it as what its name says
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=starts_as_zip(path))


def _find_problem(path: Path) -> str | None:
    """Returns why a file must not be loaded; None if it may be."""
    if path.stat().st_size == 0:
        return "it is empty"
    if not starts_as_zip(path):
        return _problem_of_legacy(path)
    if (damage := find_damage(path)) is not None:
        return damage
    with zipfile.ZipFile(path) as archive:
        pickles = [entry for entry in archive.infolist() if entry.filename.endswith(".pkl")]
        if any(entry.filename.endswith("/constants.pkl") for entry in pickles):
            return "it is a program of TorchScript; save its `state_dict()` instead"
        if not pickles:
            return "it is a zip archive, but not of PyTorch"
        names: set[str] = set()
        for entry in pickles:
            if entry.file_size > _MAX_PICKLE_BYTES:
                return f"{entry.filename} has more than {_MAX_PICKLE_BYTES >> 20} MiB"
            with archive.open(entry) as file:
                try:
                    names.update(_names_in(file))
                except Exception as error:
                    return _refusal_of(names) or f"{entry.filename} cannot be used: {first_line(error)}"
    return _refusal_of(names)


def _problem_of_legacy(path: Path) -> str | None:
    names: set[str] = set()
    with path.open("rb") as file:
        for number in range(_NUM_LEGACY_PICKLES):
            try:
                names.update(_names_in(file))
            except Exception as error:
                if refused := _refusal_of(names):
                    return refused
                kind = "it is neither a zip archive nor a pickle" if number == 0 else "it is truncated or damaged"
                return f"{kind} of PyTorch: {first_line(error)}"
            if refused := _refusal_of(names):  # what follows may be anything
                return refused
    return None


def _names_in(file: IO[bytes]) -> Iterator[str]:
    """Yields the callables that a pickle names; nothing is called.

    Raises:
        ValueError: It is not a pickle, or too long.
    """
    start = file.tell()
    protocol = 0
    strings: list[str] = []
    for number, (operation, argument, position) in enumerate(pickletools.genops(file)):
        if position is not None and position - start > _MAX_PICKLE_BYTES:
            raise ValueError(f"it has more than {_MAX_PICKLE_BYTES >> 20} MiB before the numbers of its tensors")
        if number > _MAX_OPERATIONS:
            raise ValueError(f"it has more than {_MAX_OPERATIONS:,} operations before the numbers of its tensors")
        if operation.name in ("GLOBAL", "INST"):
            module, _, attribute = str(argument).partition(" ")
            yield _in_python_3(module, attribute)
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif isinstance(argument, str):
            strings = [*strings[-1:], argument]
        elif operation.name == "PROTO":
            protocol = int(argument or 0)
    if protocol > _MAX_PROTOCOL:
        raise ValueError(f"it is a pickle of protocol {protocol}, and PyTorch writes protocol 2")


def _in_python_3(module: str, name: str) -> str:
    """Returns a dotted name; pickles of protocol 2 have those of Python 2."""
    if (module, name) in NAME_MAPPING:
        return ".".join(NAME_MAPPING[module, name])
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


def _refusal_of(names: set[str]) -> str | None:
    unknown = {name if name.isprintable() else repr(name) for name in names - _ALLOWED}
    return refusal(name[:100] for name in unknown) if unknown else None


class _NotPlainError(ValueError):
    """The content is not plain, or too large."""


class _Copier:
    """Copies a content as plain data.

    Args:
        num_bytes: Size of the file, which no tensor may exceed.
    """

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._num_values = 0

    def copy(self, value: Any, depth: int) -> Any:
        self._num_values += 1
        if depth > _MAX_DEPTH or self._num_values > _MAX_VALUES:
            raise _NotPlainError(f"it has more than {_MAX_DEPTH} levels or {_MAX_VALUES:,} values")
        if type(value) in _ATOMS:
            return value
        if isinstance(value, Tensor):
            return self._tensor(value)
        if type(value) in (dict, OrderedDict):
            return {self._key(key): self.copy(inner, depth + 1) for key, inner in value.items()}
        if type(value) in (list, tuple, torch.Size):
            copies = [self.copy(inner, depth + 1) for inner in value]
            return copies if isinstance(value, list) else tuple(copies)
        if isinstance(value, _Options):
            return self.copy(value.state or {}, depth)
        if isinstance(value, _Tree):
            return self.copy((value.state or {}).get("_content"), depth)
        if isinstance(value, _Leaf):
            return self.copy((value.state or {}).get("_val"), depth)
        raise _NotPlainError(f"it holds an object of type {_name_of(value)}")

    def _key(self, key: Any) -> Any:
        if type(key) not in _ATOMS:
            raise _NotPlainError(f"it has a key of type {_name_of(key)}")
        return key

    def _tensor(self, tensor: Tensor) -> Tensor:
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_meta
        if not plain or tensor.is_quantized or tensor.untyped_storage().nbytes() > self._num_bytes:
            raise _NotPlainError("it has a tensor that is not an array of numbers in the file")
        return tensor.detach()


def _name_of(value: Any) -> str:
    kind = value if isinstance(value, type) else type(value)
    return next((name for stand_in, name in _STAND_INS if stand_in is kind), kind.__name__)
