"""Evaluations in Weights & Biases."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from w2vlab.evaluation import Evaluation, table_rows

_log = logging.getLogger(__name__)

PROJECT = "w2vlab"
"""The same as that of runs."""

_COLUMNS = ("checkpoint", "representation", "width", "accuracy", "accuracy_shifted", "accuracy_random")
_UNITS = (
    "checkpoint",
    "source",
    "unit",
    "used",
    "phone_purity",
    "code_purity",
    "pnmi",
    "pnmi_shuffled",
    "bits_a_second",
    "pnmi_corrected",
)


Mode = Literal["online", "offline", "disabled"]


def log_evaluation(evaluation: Evaluation, checkpoint: Path, folder: Path, mode: Mode) -> str:
    """Logs the tables and the picture of one checkpoint as a separate run; see `log_tables`."""
    return log_tables({str(checkpoint): evaluation}, folder, "evaluation.png", mode, "evaluation")


def log_tables(evaluations: dict[str, Evaluation], folder: Path, picture: str, mode: Mode, job: str) -> str:
    """Logs evaluations as a run; an error of Weights & Biases is a warning, because all results are in files already.

    Args:
        evaluations: By the names of their checkpoints.
        folder: Folder of the picture, and of the files of an offline run.
        picture: Its name in `folder`.
        mode: Mode of Weights & Biases.
        job: The kind of run.

    Returns:
        The end of a sentence that names the folder of the run; empty without a run.
    """
    if mode == "disabled":
        return ""
    try:
        import wandb

        run = wandb.init(
            project=PROJECT,
            dir=folder,
            mode=mode,
            job_type=job,
            config={"checkpoints": list(evaluations)},
            settings=wandb.Settings(silent=True),
        )
        columns, rows = _representations(evaluations)
        content: dict[str, Any] = {"representations": wandb.Table(columns=[*columns], data=rows)}
        if units := _units(evaluations):
            content["units"] = wandb.Table(columns=list(_UNITS), data=units)
        if (folder / picture).is_file():
            content["picture"] = wandb.Image(str(folder / picture))
        run.log(content)
        where = str(Path(run.dir).parent)
        run.finish()
    except Exception as problem:  # results are saved in files, so no error of W&B ends the command
        _log.warning("Weights & Biases has no copy: %s: %s.", type(problem).__name__, problem)
        return ""
    return f"; Weights & Biases: {where}"


def _representations(evaluations: dict[str, Evaluation]) -> tuple[list[str], list[Sequence[Any]]]:
    speakers = sorted({task.speakers for evaluation in evaluations.values() for task in evaluation.tasks})
    columns = [*_COLUMNS]
    for name in speakers:
        columns += [f"abx_{name}", f"abx_{name}_random"]
    rows: list[Sequence[Any]] = []
    for checkpoint, evaluation in evaluations.items():
        for row in table_rows(evaluation):
            values = [row.name, row.dim, row.accuracy, row.accuracy_shifted, row.accuracy_random]
            for name in speakers:
                values += [row.abx.get(name), row.abx_random.get(name)]
            rows.append([checkpoint, *values])
    return columns, rows


def _units(evaluations: dict[str, Evaluation]) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = []
    for checkpoint, evaluation in evaluations.items():
        for source in evaluation.sources:
            for unit in source.units:
                shares = (unit.phone_purity, unit.cluster_purity, unit.pnmi, unit.pnmi_shuffled, unit.pnmi_corrected)
                *known, corrected = (None if share is None or math.isnan(share) else share for share in shares)
                rows.append([checkpoint, source.name, unit.name, unit.num_used, *known, unit.bits.frames, corrected])
    return rows
