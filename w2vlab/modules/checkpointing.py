"""Saves the configuration of a module in its checkpoints, and rebuilds the module from it."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from lightning.pytorch.utilities import rank_zero_info

from w2vlab.interfaces import check_augmentations
from w2vlab.modules.checkpoints import Record, build_model, load_weights, record, resolve_class, saved_config
from w2vlab.modules.checkpoints.initial_weights import without_warm_start
from w2vlab.modules.checkpoints.loading import read_checkpoint
from w2vlab.modules.checkpoints.plain import CONFIG
from w2vlab.modules.checkpoints.resuming import rewind_to_last_update
from w2vlab.modules.checkpoints.unit_files import UNITS, check_unit_files
from w2vlab.modules.sums import DELIVERED
from w2vlab.utils.distributed import rank
from w2vlab.utils.messages import W2VLabWarning

if TYPE_CHECKING:
    from w2vlab.modules.update import TrainedModule

Module = TypeVar("Module", bound="TrainedModule")

_RECORD = "_record"


def record_arguments(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Module:
    """Records the arguments of the constructor of `module` as its `run_config`; must be called before the constructor.

    Args:
        module: The module, allocated but not initialized.
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
    """Warns once if arguments of `module` cannot be saved, so that loading a checkpoint needs them again."""
    recorded: Record | None = getattr(module, _RECORD)
    setattr(module, _RECORD, None)
    if recorded is None or not recorded.missing or (module.run_config or {}).get("model") is not recorded.config:
        return
    if rank() == 0:
        names = ", ".join(f"`{name}`" for name in recorded.missing)
        warnings.warn(
            f"{names} must be a class, a functools.partial of one or plain data to be saved in checkpoints, but is a "
            "function or an object. Pass it again to load_from_checkpoint. Training is not affected.",
            category=W2VLabWarning,
            stacklevel=2,
        )


def complete_checkpoint(module: TrainedModule, checkpoint: dict[str, Any]) -> None:
    """Adds the configuration of `module` as plain data, and rewinds the progress to the last complete update.

    Args:
        module: The module, attached to the trainer that saves the checkpoint.
        checkpoint: The checkpoint of the trainer; changed in place.
    """
    if module.run_config is not None:
        data = getattr(getattr(module.trainer, "datamodule", None), "options", None)
        checkpoint[CONFIG] = {"data": data, **module.run_config} if isinstance(data, dict) else module.run_config
    if module.units_of_run:
        checkpoint[UNITS] = module.units_of_run
    if delivered := module.delivered.state_dict():
        checkpoint[DELIVERED] = delivered
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

    No code in the file is run, so that it may come from an untrusted source: the configuration may name only classes
    that are loaded, with plain data as options (`w2vlab.modules.checkpoints`). No optimizer is built.

    Args:
        cls: Class that the model in the checkpoint must extend.
        checkpoint_path: Path of the checkpoint.
        map_location: Device of the tensors, as in `torch.load`.
        hparams_file: Must be None, because options are read from the checkpoint.
        strict: Whether the names of the weights must be exactly those of the model; None means true.
        weights_only: Ignored; always true.
        kwargs: Arguments of the constructor that override the saved ones, such as a part that is a lambda and could
            not be saved.

    Returns:
        The module with the weights of the checkpoint.

    Raises:
        ValueError: The file is not a complete checkpoint, or names a class that is not allowed.
    """
    if hparams_file is not None:
        raise ValueError(f"`hparams_file` must be None, but is {hparams_file}: give options as keyword arguments.")
    checkpoint = read_checkpoint(checkpoint_path, map_location)
    config = saved_config(checkpoint, checkpoint_path)
    if config is not None:
        model_class = resolve_class(config.get("model"), cls, checkpoint_path)
        arguments = {**model_class.arguments_from(checkpoint, checkpoint_path), **kwargs}
        module: Module = build_model(config["model"], cls, checkpoint_path, arguments)
        module.run_config = {**config, **(module.run_config or {})} if kwargs else config
    elif kwargs and not inspect.isabstract(cls):
        with without_warm_start():
            module = cls(**kwargs)
    else:
        raise ValueError(
            f"`checkpoint_path` must have the configuration of its model, but {checkpoint_path} has none. Call "
            "load_from_checkpoint of the class of the model, with its parts as keyword arguments."
        )
    module.on_load_checkpoint(checkpoint)
    load_weights(module, checkpoint["state_dict"], checkpoint_path, strict=strict is not False)
    return module


def check_start(module: TrainedModule) -> None:
    """Checks augmentations and files of units, logs the warm start, and warns of arguments that are not saved.

    Args:
        module: The module, with its trainer.

    Raises:
        ValueError: The targets do not fit the augmentations.
        RunError: A file lacks an utterance of the training or the validation, has it in another length, or has other
            units than when the run was started.
    """
    for line in () if module.warm_start is None else module.warm_start.lines():
        rank_zero_info(line)
    if module.trainer.checkpoint_callbacks:
        warn_of_unsaved_arguments(module)
    # Other data modules than ours need not know the lengths of utterances before they are read.
    data = module.trainer.datamodule  # type: ignore[attr-defined]
    check_augmentations(getattr(data, "augmentations", None) or (), module, module.targets_follow_clean_audio)
    lengths = getattr(data, "utterance_lengths", None)
    module.units_of_run = check_unit_files(
        module,
        utterances=None if lengths is None else lengths(),
        before={} if module.trainer.ckpt_path is None else module.units_of_run,
        accept_changes=getattr(data, "accept_changes", False),
    )
