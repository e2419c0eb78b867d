"""What a checkpoint holds of how its module was built, and how the module is rebuilt from it."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from w2vlab.modules.checkpoints import Record, build_model, class_named, load_weights, record, saved_config
from w2vlab.modules.checkpoints.loading import read_checkpoint
from w2vlab.modules.checkpoints.plain import CONFIG
from w2vlab.modules.checkpoints.resuming import rewind_to_last_update
from w2vlab.utils.distributed import rank
from w2vlab.utils.messages import W2VLabWarning

if TYPE_CHECKING:
    from w2vlab.modules.update import TrainedModule

Module = TypeVar("Module", bound="TrainedModule")

_RECORD = "_record"


def record_arguments(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Module:
    """Records with which arguments `module` is built, as its `run_config`; to be called before its constructor.

    Args:
        module: The module, allocated and not initialised.
        args: Positional arguments of the constructor.
        kwargs: Named arguments of the constructor.

    Returns:
        `module`.
    """
    recorded = record(type(module), args, kwargs)
    # `nn.Module.__setattr__` works only after the constructor.
    object.__setattr__(module, _RECORD, recorded)
    object.__setattr__(module, "run_config", None if recorded is None else {"model": recorded.config})
    return module


def warn_of_unsaved_arguments(module: TrainedModule) -> None:
    """Warns, once, if checkpoints of `module` cannot be opened without arguments that are not plain data."""
    recorded: Record | None = getattr(module, _RECORD)
    setattr(module, _RECORD, None)
    if recorded is None or not recorded.missing or (module.run_config or {}).get("model") is not recorded.config:
        return
    if rank() == 0:
        names = ", ".join(f"`{name}`" for name in recorded.missing)
        warnings.warn(
            f"Checkpoints of this model cannot be opened without it: {names} must be a class, a functools.partial "
            "of one or plain data to be saved, but is a function or an object. Training is the same.",
            category=W2VLabWarning,
            stacklevel=2,
        )


def complete_checkpoint(module: TrainedModule, checkpoint: dict[str, Any]) -> None:
    """Adds the configuration that built `module`, as plain data, and rewinds the progress to the last whole update.

    Args:
        module: The module, attached to the trainer that writes the checkpoint.
        checkpoint: As the trainer made it; changed in place.
    """
    if module.run_config is not None:
        data = getattr(getattr(module.trainer, "datamodule", None), "options", None)
        checkpoint[CONFIG] = {"data": data, **module.run_config} if isinstance(data, dict) else module.run_config
    warn_of_unsaved_arguments(module)
    rewind_to_last_update(checkpoint, module.trainer)


def load_module(
    cls: type[Module],
    checkpoint_path: Any,
    map_location: Any = None,
    hparams_file: Any = None,
    strict: bool | None = None,
    weights_only: bool | None = True,
    **kwargs: Any,
) -> Module:
    """Rebuilds a module from the configuration in its checkpoint and loads its weights.

    No code in the file is run, whoever wrote it: it may name parts that are loaded already, and plain data for their
    options (`w2vlab.modules.checkpoints`). No optimiser is built.

    Args:
        cls: The class that the checkpoint must name, or a base of it.
        checkpoint_path: The checkpoint.
        map_location: The device of the tensors, as in `torch.load`.
        hparams_file: Must be None: options are those in the checkpoint.
        strict: Whether all weights must be those of the model; None means yes.
        weights_only: Ignored; always true.
        kwargs: Arguments of the constructor that override the saved ones, such as a part that is not a class and could
            not be saved.

    Raises:
        ValueError: The file is not a whole checkpoint, or names what may not be built.
    """
    if hparams_file is not None:
        raise ValueError(f"`hparams_file` must be None, but is {hparams_file}: give options as keyword arguments.")
    checkpoint = read_checkpoint(checkpoint_path, map_location)
    config = saved_config(checkpoint, checkpoint_path)
    if config is not None:
        kind = class_named(config.get("model"), cls, checkpoint_path)
        arguments = {**kind.arguments_from(checkpoint, checkpoint_path), **kwargs}
        module: Module = build_model(config["model"], cls, checkpoint_path, arguments)
        module.run_config = {**config, **(module.run_config or {})} if kwargs else config
    elif kwargs and not inspect.isabstract(cls):
        module = cls(**kwargs)
    else:
        raise ValueError(
            f"`checkpoint_path` must hold the configuration of its model, but {checkpoint_path} has none. Call "
            "this on the class of the model, with its parts as keyword arguments."
        )
    module.on_load_checkpoint(checkpoint)
    load_weights(module, checkpoint["state_dict"], checkpoint_path, strict=strict is not False)
    return module
