"""The scripts for torchrun and SLURM, with fakes of the programs that they call."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

CONFIG = ["--config", "configs/with a space.yaml"]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with programs that record their arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "scontrol", "torchrun", "nvidia-smi"):
        write_program(folder / name, "")
    return folder


def write_program(path: Path, lines: str) -> None:
    path.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$@" >> "{path}.called"\n{lines}\n')
    path.chmod(0o755)


def called(program: Path) -> list[str]:
    record = program.with_name(f"{program.name}.called")
    return record.read_text().splitlines() if record.exists() else []


def start(script: str, programs: Path, **variables: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"} | variables
    command = ["bash", str(SCRIPTS / script), *CONFIG]
    return subprocess.Popen(command, env=environment, cwd=programs, stdout=subprocess.PIPE, text=True)


def start_job(programs: Path) -> subprocess.Popen[str]:
    return start("slurm/fit.sbatch", programs, SLURM_JOB_ID="7", SLURM_JOB_NUM_NODES="2", SLURM_NTASKS_PER_NODE="8")


def end_of(process: subprocess.Popen[str]) -> int:
    try:
        process.communicate()
    finally:
        process.kill()
    return process.returncode


@pytest.mark.parametrize("status", [0, 1, 130, 137, 138, 143])
def test_a_job_is_requeued_after_its_time_limit_only(programs: Path, status: int) -> None:
    """Not if it is done, failed or was cancelled; the script has the status of the job."""
    write_program(programs / "scontrol", "echo PreemptTime=None")
    write_program(programs / "srun", f"exit {status}")
    assert end_of(start_job(programs)) == status
    assert ("requeue" in called(programs / "scontrol")) == (status == 138)


def test_srun_passes_nodes_and_devices(programs: Path) -> None:
    """After the user's configs, which would override them otherwise; arguments with spaces stay whole."""
    assert end_of(start_job(programs)) == 0
    own, fit = called(programs / "srun"), ["python", "-m", "w2vlab", "fit"]
    assert own[1:5] == fit
    assert own[5:] == [
        "--trainer.default_root_dir=runs/slurm-7",
        *CONFIG,
        "--trainer.num_nodes=2",
        "--trainer.devices=8",
        "--ckpt_path=last",
    ]


@pytest.mark.parametrize(("since", "again"), [("2026-01-02T03:04:05", True), ("None", False)])
def test_a_preempted_job_is_requeued_after_its_tasks_have_ended(programs: Path, since: str, again: bool) -> None:
    """The script gets SIGTERM too; a cancelled job is not requeued."""
    write_program(programs / "scontrol", f"echo PreemptTime={since}")
    save = f"touch {programs}/saved; exit 143"
    write_program(programs / "srun", f"trap '{save}' TERM; touch {programs}/ready; while true; do sleep 0.05; done")
    job = start_job(programs)
    try:
        while not (programs / "ready").exists():
            time.sleep(0.01)
        job.send_signal(signal.SIGTERM)
        assert end_of(job) == 143
    finally:
        job.kill()
    assert (programs / "saved").exists()
    assert (called(programs / "scontrol")[-2:] == ["requeue", "7"]) == again


def test_options_of_the_job() -> None:
    """SLURM sends SIGUSR1 to the tasks, in time to save."""
    text = (SCRIPTS / "slurm" / "fit.sbatch").read_text(encoding="utf-8")
    assert "#SBATCH --signal=USR1@120\n" in text
    assert "#SBATCH --requeue\n" in text


def test_torchrun_passes_nodes_and_devices(programs: Path) -> None:
    write_program(programs / "nvidia-smi", "echo GPU 0; echo GPU 1")
    assert end_of(start("torchrun.sh", programs, NUM_NODES="2", NODE_RANK="1", MASTER_ADDR="first")) == 0
    words = called(programs / "torchrun")
    launch, fit = words[: words.index("-m")], words[words.index("-m") :]
    assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=2", "--master-addr=first"} <= set(launch)
    assert fit == [
        "-m",
        "w2vlab",
        "fit",
        "--trainer.default_root_dir=runs/torchrun",
        *CONFIG,
        "--trainer.num_nodes=2",
        "--trainer.devices=2",
        "--ckpt_path=last",
    ]
