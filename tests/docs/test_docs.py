"""The documentation includes existing code, its example works, and it builds."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import forked
from w2vlab.cli.main import main
from w2vlab.registry import FAMILIES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not {"_build", "jupyter_execute"} & set(path.parts))
INCLUDE = re.compile(r"^(`{3,}|:{3,})\{literalinclude\} (\S+)\n((?::[\w-]+:.*\n)*)\1$", re.MULTILINE)


def quotes(page):
    """The included files of a page, with their options."""
    for match in INCLUDE.finditer(page.read_text(encoding="utf-8")):
        options = dict(re.findall(r"^:([\w-]+): (.*)$", match[3], re.MULTILINE))
        yield (page.parent / match[2]).resolve(), options


def definition(path, qualified_name):
    node = ast.parse(path.read_text(encoding="utf-8"))
    for name in qualified_name.split("."):
        found = [child for child in node.body if getattr(child, "name", None) == name]
        assert found, f"{path.name} no longer has {qualified_name}"
        (node,) = found
    return node


def quoted_lines(path, options):
    """The numbers of the lines that a directive includes, by the rules of Sphinx."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first, last = 1, len(lines)
    if "pyobject" in options:
        node = definition(path, options["pyobject"])
        first, last = node.lineno, node.end_lineno
    if "start-at" in options:
        first = line_with(options["start-at"], path, lines, first, last)
    if "end-at" in options:
        last = line_with(options["end-at"], path, lines, first, last)
    if "end-before" in options:
        last = line_with(options["end-before"], path, lines, first, last) - 1
    return range(first, last + 1)


def line_with(text, path, lines, first, last):
    for number in range(first, last + 1):
        if text in lines[number - 1]:
            return number
    raise AssertionError(f"{path.name} no longer has a line with {text!r} in lines {first} to {last}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_quoted_lines_are_in_the_source(page):
    assert page.read_text(encoding="utf-8").count("{literalinclude}") == len(list(quotes(page)))
    for path, options in quotes(page):
        assert len(quoted_lines(path, options)) > 0


@pytest.mark.parametrize(
    ("module", "method"),
    [
        ("modules/masked_prediction.py", "MaskedPrediction.prepare"),
        ("modules/masked_prediction.py", "MaskedPrediction.forward"),
        ("modules/masked_objective.py", "MaskedObjective.encode"),
        ("modules/masked_objective.py", "MaskedObjective.loss_inputs"),
        ("modules/future_prediction.py", "FuturePrediction.prepare"),
        ("modules/future_prediction.py", "FuturePrediction.forward"),
        ("quantizers/gumbel.py", "GumbelQuantizer.forward"),
    ],
)
def test_every_line_of_the_step_is_on_the_page(module, method):
    source = ROOT / "w2vlab" / module
    quoted = set()
    for path, options in quotes(DOCS / "understand/training_step.md"):
        if path == source:
            quoted |= set(quoted_lines(path, options))
    text = source.read_text(encoding="utf-8").splitlines()
    node = definition(source, method)
    body = range(node.body[0].end_lineno + 1, node.end_lineno + 1)  # after the docstring
    code = {number for number in body if text[number - 1].strip() and not text[number - 1].lstrip().startswith("#")}
    assert {number: text[number - 1] for number in sorted(code - quoted)} == {}


def test_the_api_has_every_package_of_parts_and_every_module_of_functions():
    named = set(re.findall(r"automodule:: (\S+)", "".join(page.read_text(encoding="utf-8") for page in PAGES)))
    assert {family.package for family in FAMILIES.values()} <= named
    functions = [path for path in (ROOT / "w2vlab/functional").rglob("*.py") if path.stem != "__init__"]
    assert {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in functions} <= named


def test_explain_commands_run(monkeypatch, capsys):
    lines = {line.strip() for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()}
    asked = [line for line in sorted(lines) if line.startswith("w2vlab explain")]
    assert asked
    monkeypatch.chdir(ROOT)
    for command in asked:
        assert main([*shlex.split(command)[1:], "--no_gradients"]) == 0
        assert "Tensor shapes of" in capsys.readouterr().out


def example_command(program):
    """A command of the page on writing a part, with the environment that it sets."""
    text = (DOCS / "write_a_part.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^    PYTHONPATH=(\S+) {program} (.*[lL]ookup.?[fF]ree.*)$", text, re.MULTILINE)
    # In separate processes, because the part would be registered for all other tests as well.
    return {**os.environ, "PYTHONPATH": str(ROOT / line[0])}, shlex.split(line[1])


def test_the_example_passes_the_contracts_and_its_own_test():
    environment, arguments = example_command("pytest")
    command = [sys.executable, "-m", "pytest", "-n0", "-v", "-p", "no:cacheprovider", *arguments, "docs/examples"]
    command[command.index("LookupFree")] = "LookupFree or test_lookup_free"
    run = forked.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert len(re.findall(r"docs/examples/test_lookup_free\.py::\w+ PASSED", run.stdout)) == 1
    contracts = re.findall(r"tests/contracts/\S+ PASSED", run.stdout)
    assert len(contracts) >= 25, "the contracts do not know the example"


def test_one_flag_selects_the_example():
    environment, arguments = example_command("w2vlab")
    assert arguments[0] == "fit"
    command = [sys.executable, "-m", "w2vlab", "explain", *arguments[1:], "--json"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    explained = json.loads(run.stdout)
    codes = explained["codes"]
    assert (codes["num_codebooks"], codes["codebook_size"], codes["bits_per_second"]) == (1, 64, 300)
    assert explained["gradients"]["norms"]["commitment"]["quantizer.project_in"] > 0
    assert explained["gradients"]["norms"]["commitment"]["quantizer.project_out"] == 0


MISSING = [name for name in ("sphinx", "furo", "myst_nb") if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(MISSING), reason=f'needs `pip install -e ".[docs]"`: there is no {", ".join(MISSING)}')
def test_builds_without_a_warning(tmp_path):
    built = tmp_path / "built"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(built)]
    run = forked.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (built / "understand/training_step.html").is_file()
    assert "LookupFreeQuantizer" in (built / "write_a_part.html").read_text(encoding="utf-8")
    assert "GumbelQuantizer" in (built / "api/parts/quantizers.html").read_text(encoding="utf-8")
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert (built / "notebooks" / f"{notebook.stem}.html").is_file()
