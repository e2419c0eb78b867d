"""Each check of `w2vlab doctor` in a situation that is broken for it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import tempfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from w2vlab.cli.doctor import gpus, packages
from w2vlab.cli.doctor.accounts import check_wandb
from w2vlab.cli.doctor.folders import check_cache, check_runs, check_temporary
from w2vlab.cli.doctor.gpus import Driver, check_gpus, check_nccl, find_driver
from w2vlab.cli.doctor.limits import check_open_files, check_shared_memory
from w2vlab.cli.doctor.loading import Loaded
from w2vlab.cli.doctor.packages import check_package, check_python, check_w2vlab
from w2vlab.cli.doctor.probe import CODECS, codec_facts
from w2vlab.cli.doctor.processors import available_memory, check_memory, check_processors
from w2vlab.cli.doctor.tools import check_codecs, check_compiler
from w2vlab.data.audio.probing import EXTENSIONS

Usage = namedtuple("Usage", "total used free")
GIB = 1 << 30


# Packages


def test_a_version_outside_of_the_tested_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "installed", lambda name: "2.12.1")
    found = check_package("torch", Loaded())
    assert found.state == "note"
    assert found.text.startswith("2.12.1, which was not tested (>=2.11.0,")
    assert "torch torchaudio" in found.advice
    monkeypatch.setattr(packages, "requirements", lambda: {"torch": ">=2.11.0,!=2.13.*"})
    assert check_package("torch", Loaded()).state == "ok"


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2vlab.cli.errors.packages.installed", lambda name: None)
    found = check_package("lightning", Loaded("No module named 'lightning'", "lightning"))
    assert (found.state, found.text, found.blocks) == ("problem", "is not installed", True)


def test_python_and_w2vlab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.platform, "python_version", lambda: "3.14.0")
    assert check_python().text == "3.14.0, which was not tested (>=3.11,<3.14)"
    monkeypatch.setattr(packages, "installed", lambda name: None)
    assert check_w2vlab().text.endswith("which is not installed")
    monkeypatch.setattr(packages, "installed", lambda name: "0.0.1")
    assert check_w2vlab().text.endswith("but 0.0.1 is installed")


# Processors and memory


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Path]:
    """Writes files of `/proc` and `/sys`."""

    def write(**files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_processors_with_and_without_instructions(machine: Callable[..., Path]) -> None:
    root = machine(proc__cpuinfo="model name\t: AMD EPYC\nflags\t\t: sse4_2 avx2 avx512f avx512_bf16\n")
    cores = len(os.sched_getaffinity(0))
    found = check_processors("AVX512", root)
    assert found.state == "ok"
    assert found.text == (
        f"AMD EPYC, {cores} of {os.cpu_count()} cores; AVX2, AVX-512, AVX-512 BF16; PyTorch's kernels: AVX512"
    )
    found = check_processors(None, machine(proc__cpuinfo="model name : Atom\nflags : sse4_2\n"))
    assert found.state == "note"
    assert "Without AVX2" in found.advice


def test_a_container_that_may_use_half_a_core(machine: Callable[..., Path]) -> None:
    files = {
        "proc__cpuinfo": "model name : X\nflags : avx2\n",
        "proc__self__cgroup": "0::/pod/run\n",
        "sys__fs__cgroup__pod__run__cpu.max": "max 100000\n",
        "sys__fs__cgroup__pod__cpu.max": "50000 100000\n",
    }
    found = check_processors(None, machine(**files))
    assert found.state == "note"
    assert found.text.endswith("; a limit of 0.5 of them at a time")
    assert found.advice.endswith("OMP_NUM_THREADS=1")


def test_the_older_kind_of_limits(machine: Callable[..., Path]) -> None:
    files = {
        "proc__cpuinfo": "model name : X\nflags : avx2\n",
        "proc__self__cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n",
        "sys__fs__cgroup__cpu__job__cpu.cfs_quota_us": "20000\n",
        "sys__fs__cgroup__cpu__job__cpu.cfs_period_us": "100000\n",
        "proc__meminfo": f"MemTotal: {32 << 20} kB\nMemAvailable: {20 << 20} kB\n",
        "sys__fs__cgroup__memory__job__memory.limit_in_bytes": str(4 * GIB),
        "sys__fs__cgroup__memory__job__memory.usage_in_bytes": str(2 * GIB),
        "sys__fs__cgroup__memory__memory.limit_in_bytes": "9223372036854771712",
    }
    root = machine(**files)
    assert "a limit of 0.2 of them" in check_processors(None, root).text
    found = check_memory(root)
    assert found.state == "note"
    assert found.text == "20.0 GiB free of 32.0 GiB; a limit of 4.0 GiB for this group of processes"
    assert available_memory(root) == 2 * GIB


def test_memory_without_a_limit(machine: Callable[..., Path]) -> None:
    root = machine(proc__meminfo=f"MemTotal: {32 << 20} kB\nMemAvailable: {20 << 20} kB\n")
    assert check_memory(root).state == "ok"
    assert available_memory(root) == 20 * GIB
    assert available_memory(root / "nowhere") is None
    assert check_memory(root / "nowhere").text == "not known on this system"


# GPUs

H200 = {"name": "NVIDIA H200", "total": 140 * GIB, "free": 139 * GIB, "capability": [9, 0], "built_for": ["sm_90"]}
CUDA = {"cuda": "13.0", "hip": None, "nccl": "2.28.9", "gpus": [], "gpu_error": None}
DRIVER = Driver("580.95", "13.0", ("NVIDIA H200",))


def test_without_gpus_nothing_is_wrong() -> None:
    (found,) = check_gpus({"cuda": None, "gpus": []}, None)
    assert (found.state, found.text) == ("ok", "none; runs use the processors")
    assert check_nccl({}).state == "ok"


def test_gpus_that_compute() -> None:
    first, driver = check_gpus({**CUDA, "gpus": [{**H200, "works": True}]}, DRIVER)
    assert first.state == driver.state == "ok"
    assert first.text == "NVIDIA H200, 140 GiB, 139 GiB free, compute capability 9.0"
    assert driver.text == "PyTorch is built for CUDA 13.0; driver 580.95 for CUDA up to 13.0"


@pytest.mark.parametrize(
    ("facts", "driver", "text"),
    [
        ({**CUDA, "cuda": None}, DRIVER, "1 that this PyTorch cannot use; PyTorch is built without CUDA; driver 580"),
        (CUDA, Driver("535.1", "12.2", ("A",)), "1 with a driver that is too old for this PyTorch; .*up to 12.2"),
        ({**CUDA, "gpu_error": "system not yet initialized"}, DRIVER, "PyTorch does not find (system not yet init"),
        (
            {**CUDA, "gpus": [{**H200, "works": False, "error": "no kernel image is available"}]},
            DRIVER,
            "a computation failed: no kernel image is available",
        ),
    ],
)
def test_gpus_that_cannot_be_used(
    facts: dict[str, Any], driver: Driver, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = check_gpus(facts, driver)[0]
    assert (found.state, found.blocks) == ("problem", False)
    assert all(piece in found.text for piece in text.split(".*"))
    assert found.advice


def test_gpus_that_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (found,) = check_gpus(CUDA, DRIVER)
    assert found.state == "note"
    assert "CUDA_VISIBLE_DEVICES='' leaves none" in found.text


def test_gpus_of_a_machine_without_pytorch() -> None:
    (found,) = check_gpus({}, DRIVER)
    assert found.state == "note"
    assert found.text == "1; driver 580.95 for CUDA up to 13.0; more is not known: PyTorch cannot be loaded"


def test_several_gpus_need_nccl() -> None:
    found = check_nccl({**CUDA, "nccl": None, "gpus": [H200, H200]})
    assert found.state == "problem"
    assert check_nccl({**CUDA, "gpus": [H200, H200]}).text == "2.28.9"


def test_output_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    heading = "| NVIDIA-SMI 580.95    Driver Version: 580.95.05    CUDA Version: 13.0  |"
    program.write_text(f'#!/bin/sh\n[ $# = 0 ] && echo "{heading}" || printf "NVIDIA H200\\nNVIDIA H200\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert find_driver() == Driver("580.95.05", "13.0", ("NVIDIA H200", "NVIDIA H200"))
    program.write_text("#!/bin/sh\nexit 9\n")
    assert find_driver() is None
    monkeypatch.setattr(gpus.shutil, "which", lambda name: None)
    assert find_driver() is None


# Limits


def test_little_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(64 << 20, 0, 64 << 20))
    found = check_shared_memory()
    assert found.state == "note"
    assert found.text.startswith("64 MiB free of 64 MiB")
    assert "--shm-size" in found.advice
    monkeypatch.undo()
    assert check_shared_memory(tmp_path / "shm").text == "cannot be used: No such file or directory"


def test_few_open_files() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        found = check_open_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert found.state == "note"
    assert found.text.startswith("at most 256 (")
    assert found.advice == "ulimit -n 1024"


def test_few_open_files_that_cannot_be_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 512))
    assert "--data.num_workers=0" in check_open_files().advice
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert check_open_files().text == "no limit"


# Folders


def refuse(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Has nothing written to `folder`, also by root."""
    real = tempfile.TemporaryFile

    def temporary_file(*args: Any, dir: Path, **options: Any) -> Any:
        if Path(dir) == folder:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(*args, dir=dir, **options)

    monkeypatch.setattr(tempfile, "TemporaryFile", temporary_file)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, tmp_path)
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "cache" / "deep"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for found in (check_runs(tmp_path / "runs"), check_cache(), check_temporary()):
        assert (found.state, found.blocks) == ("problem", True)
        assert found.text.endswith("cannot be written to: Read-only file system")
        assert found.advice
    assert not list(tmp_path.iterdir())  # nothing is made by looking


def test_a_disk_that_is_almost_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_runs(tmp_path).name == "runs"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(GIB, 0, GIB // 2))
    found = check_runs(tmp_path)
    assert (found.state, found.blocks) == ("note", False)
    assert found.text.endswith("0.5 GiB free")


# Codecs and compiler


def test_codecs_are_those_of_corpora() -> None:
    assert {f".{ending}" for ending in CODECS} == EXTENSIONS


def test_every_codec_is_written_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = codec_facts()
    assert facts["codecs"] == dict.fromkeys(CODECS)
    assert check_codecs(facts).state == "ok"


def test_a_codec_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile

    real = soundfile.read

    def read(path: Path, **options: Any) -> Any:
        if path.suffix == ".mp3":
            raise soundfile.LibsndfileError(1)
        sound, rate = real(path, **options)
        return (sound * 0, rate) if path.suffix == ".ogg" else (sound, rate)

    monkeypatch.setattr(soundfile, "read", read)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = check_codecs(codec_facts())
    assert found.state == "note"
    assert found.text.startswith("wav, flac, opus (libsndfile ")
    assert "; no ffmpeg, which is not needed; not ogg: the decoded sound differs; mp3: " in found.text
    assert check_codecs({}).state == "note"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (None, "no my-compiler"),
        (
            "echo 'program.cpp:1: error: no such file cmath' >&2; exit 1",
            "my-compiler cannot compile a program: prog",
        ),
    ],
)
def test_compilers_that_do_not_work(
    script: str | None, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        (tmp_path / "my-compiler").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "my-compiler").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CXX", "my-compiler")
    found = check_compiler()
    assert found.state == "note"
    assert found.text.startswith(text)
    assert "CompileModel" in found.advice


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_compiler_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    assert check_compiler().text.startswith("g++")


# Weights & Biases


def test_wandb_is_checked_without_showing_keys(tmp_path: Path) -> None:
    key = "0123456789abcdef"
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {key}\n")
    none = {"NETRC": str(tmp_path / "none")}
    assert check_wandb(none).text == "runs stay offline unless a logger asks for more; not logged in"
    found = check_wandb({"NETRC": str(tmp_path / "netrc"), "WANDB_MODE": "online"})
    assert (found.state, found.text) == ("ok", "WANDB_MODE=online; logged in (netrc); set: WANDB_MODE")
    found = check_wandb({**none, "WANDB_API_KEY": key, "WANDB_ENTITY": "somebody"})
    assert key not in str(found)
    assert "somebody" not in str(found)
    assert "set: WANDB_API_KEY, WANDB_ENTITY" in found.text
    other_server = {"NETRC": str(tmp_path / "netrc"), "WANDB_BASE_URL": "https://wandb.example.org"}
    assert "not logged in" in check_wandb(other_server).text
    (tmp_path / "netrc").write_text("nonsense {{{\n")
    assert "not logged in" in check_wandb({"NETRC": str(tmp_path / "netrc")}).text


@pytest.mark.parametrize(
    ("mode", "advice"), [("online", "wandb login"), ("of line", "must be one of online, offline, disabled, shared")]
)
def test_modes_that_do_not_work(mode: str, advice: str, tmp_path: Path) -> None:
    found = check_wandb({"NETRC": str(tmp_path / "none"), "WANDB_MODE": mode})
    assert found.state == "note"
    assert advice in found.advice
