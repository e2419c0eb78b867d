"""Callbacks without options that every run from the command line has."""

from __future__ import annotations

from lightning.pytorch import Callback

from w2vlab.callbacks import GracefulStop
from w2vlab.callbacks.records.left_out import LeftOutUtterances
from w2vlab.cli.parsing.precision import SamePrecision


def callbacks_of_every_run() -> list[Callback]:
    """Returns new callbacks."""
    return [GracefulStop(), LeftOutUtterances(), SamePrecision()]
