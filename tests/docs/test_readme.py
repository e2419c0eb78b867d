"""The commands and the code of the README run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import torch

from tests.interop.toys import save, toy_model

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_two_setup_commands_of_one_line() -> None:
    run, test = re.findall(r"```bash\n(.*?)\n```", README, re.DOTALL)
    assert "\n" not in run + test
    assert run.endswith("w2vlab fit --config configs/quickstart.yaml")
    assert test.endswith("pytest")


def test_ci_finds_them() -> None:
    for number, end in ((1, "quickstart.yaml"), (2, "pytest")):
        command = ["bash", ".ci/readme_command", str(number)]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert printed.rstrip().endswith(end)


def test_the_example_of_a_published_model_runs(tmp_path: Path) -> None:
    """With a checkpoint of a small model in the place of `SOURCE`."""
    source = tmp_path / "source.ckpt"
    save(toy_model(), source)
    names: dict = {}
    exec(EXAMPLES[0].replace("SOURCE", str(source)), names)
    assert names["contexts"].shape[:2] == names["codes"].shape[:2]
    assert sorted(names["layers"]) == [0, 1]


def test_the_python_example_takes_a_step() -> None:
    example = EXAMPLES[1]
    torch.manual_seed(0)
    names: dict = {}
    exec(example, names)
    gradients = [parameter.grad for parameter in names["model"].parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)


def test_every_file_it_names_exists() -> None:
    named = re.findall(r"\]\(([\w./]+)\)|`((?:tests|configs|benchmarks|docs)/[\w./]+)`|=(configs/[\w./]+)", README)
    paths = {path for match in named for path in match if path}
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
