"""`WANDB_MODE` is obeyed; a run survives a server that cannot be reached, and refuses a missing login in a line."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb
from jsonargparse import Namespace
from lightning.pytorch.loggers import WandbLogger

from w2vlab.cli.logging.evaluation_wandb import log_tables
from w2vlab.cli.logging.loggers import guard
from w2vlab.cli.logging.wandb_server import follow_wandb_mode, mode_for_tables, why_unreachable
from w2vlab.types import RunError

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def _own_wandb_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """It reads the environment once."""
    wandb.finish()
    wandb.teardown()
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    wandb.finish()
    wandb.teardown()


@pytest.fixture
def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refusing_server() -> Iterator[str]:
    """Answers everything with: not found."""

    class Refuse(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        do_GET = do_POST = do_HEAD

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuse)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def options(*loggers: dict[str, Any]) -> Namespace:
    made = [
        Namespace(class_path=f"lightning.pytorch.loggers.{name}", init_args=Namespace(**arguments))
        for name, arguments in ((logger.pop("name"), logger) for logger in loggers)
    ]
    return Namespace(logger=made if len(made) > 1 else made[0])


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [
        ("online", True, False),
        ("run", True, False),
        ("offline", False, True),
        ("dryrun", False, True),
        (None, True, True),
        (None, False, False),
    ],
)
def test_the_variable_counts(mode: str | None, before: bool, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    trainer = options({"name": "WandbLogger", "offline": before})
    follow_wandb_mode(trainer)
    assert trainer.logger.init_args.offline is after


def test_disabled_leaves_the_other_loggers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    trainer = options({"name": "WandbLogger", "offline": True}, {"name": "CSVLogger", "save_dir": "runs"})
    follow_wandb_mode(trainer)
    assert [logger.class_path for logger in trainer.logger] == ["lightning.pytorch.loggers.CSVLogger"]


def test_a_disabled_run_has_its_files(fit: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert fit("--trainer.max_steps=1", logger=[]) == 0
    assert {path.name for path in Path("runs").iterdir()} == {"w2vlab"}
    assert (Path("runs/w2vlab/version_0/checkpoints") / "last.ckpt").is_file()


def test_an_empty_variable_is_none(fit: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "")
    assert fit("--trainer.max_steps=1", logger=[]) == 0
    assert len(list(Path("runs/wandb").glob("offline-run-*"))) == 1


def test_another_mode_is_refused(
    fit: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "onlin")
    assert fit(logger=[]) == 1
    assert "error: `WANDB_MODE` must be online, offline or disabled, but is onlin.\n" in capsys.readouterr().err


def test_a_run_is_offline_where_the_server_cannot_be_reached(
    fit: Callable[..., int], closed_port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", closed_port)
    assert fit("--trainer.max_steps=1", logger=[]) == 0
    error = capsys.readouterr().err
    why = f"{closed_port}: [Errno 111] Connection refused"
    assert f"Weights & Biases cannot be reached ({why}): the run is logged offline" in error
    assert "Upload it later with `wandb sync FOLDER`" in error
    (run,) = Path("runs").glob("w2vlab/*/run.json")
    assert json.loads(run.read_text())["status"] == "finished"
    assert len(list(Path("runs/wandb").glob("offline-run-*"))) == 1
    assert os.environ["WANDB_MODE"] == "online"  # unchanged, for later runs


@pytest.mark.parametrize("reachable", [True, False])
def test_a_missing_login_is_an_error_of_one_line(
    reachable: bool, tmp_path: Path, closed_port: str, refusing_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", refusing_server if reachable else closed_port)
    logger = WandbLogger(project="w2vlab", save_dir=str(tmp_path))
    guard([logger])
    message = r"^Weights & Biases refuses the run: .* Log in with `wandb login` or WANDB_API_KEY, or log offline"
    with pytest.raises(RunError, match=message):
        _ = logger.experiment


def test_a_server_that_answers_is_reached(
    refusing_server: str, closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert why_unreachable(wandb.Settings(base_url=refusing_server)) is None
    assert "Connection refused" in str(why_unreachable(wandb.Settings(base_url=closed_port)))


@pytest.mark.parametrize(
    ("mode", "asked", "folders"),
    [(None, None, 1), ("disabled", None, 0), ("disabled", "offline", 1), ("offline", "off", 0), ("onlin", None, 0)],
)
def test_evaluations_follow_the_variable_too(
    mode: str | None, asked: str | None, folders: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    log_tables({}, tmp_path, "none.png", mode_for_tables(asked), "evaluation")
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == folders


def test_an_evaluation_is_logged_offline_where_the_server_cannot_be_reached(
    tmp_path: Path, closed_port: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", closed_port)
    assert log_tables({}, tmp_path, "none.png", mode_for_tables("online"), "evaluation").startswith(
        "; Weights & Biases: "
    )
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1
    assert "cannot be reached" in caplog.text
