"""What is checked and logged before a module is trained."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_info

from w2vlab.interfaces import check_augmentations
from w2vlab.modules.checkpointing import warn_of_unsaved_arguments
from w2vlab.modules.checkpoints.unit_files import check_unit_files
from w2vlab.modules.update import TrainedModule


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
