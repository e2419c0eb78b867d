"""Installing a package outside of the repository adds a part."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from tests.processes import forked

DEMO = Path(__file__).parent / "demo"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installs the plugin like pip, which would need the network for its build backend."""
    target = tmp_path_factory.mktemp("site-packages")
    project = tomllib.loads((DEMO / "pyproject.toml").read_text())["project"]
    shutil.copytree(DEMO / "w2vlab_demo_plugin", target / "w2vlab_demo_plugin")
    info = target / f"w2vlab_demo_plugin-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(points))
    return target


def w2vlab(*args: str, path: Path) -> forked.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{REPOSITORY}"}
    return forked.run([sys.executable, "-m", "w2vlab", *args], env=environment, capture_output=True, text=True)


def test_listing_shows_it(installed: Path) -> None:
    listing = w2vlab("parts", "quantizer", path=installed)
    assert "SignQuantizer" in listing.stdout
    assert "Charikar 2002" in listing.stdout
    assert "KMeansQuantizer" in listing.stdout
    assert listing.stderr == ""


def test_listing_names_a_plugin_without_source(installed: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(installed, tmp_path / "site-packages")
    shutil.rmtree(broken / "w2vlab_demo_plugin")
    listing = w2vlab("parts", path=broken)
    assert listing.returncode == 0
    assert "KMeansQuantizer" in listing.stdout
    assert "warning: The parts of the plugin 'demo' cannot be listed" in listing.stderr


def test_short_name_builds_it(installed: Path) -> None:
    run = w2vlab(
        *("fit", "--model=MaskedPrediction", "--data.corpus=none", "--model.quantizer=SignQuantizer"),
        *("--model.quantizer.num_codebooks=3", "--print_config"),
        path=installed,
    )
    assert run.returncode == 0, run.stderr
    assert "class_path: w2vlab_demo_plugin.SignQuantizer" in run.stdout
    assert "num_codebooks: 3" in run.stdout


def test_full_path_needs_no_installation_and_another_plugin_that_is_broken_does_not_matter(
    installed: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(installed, tmp_path / "site-packages")
    (path / "w2vlab_demo_plugin" / "sign.py").rename(path / "my_quantizer.py")
    (path / "w2vlab_demo_plugin" / "sign.py").write_text("import a_module_that_nobody_has\n")
    run = w2vlab(
        *("fit", "--model=MaskedPrediction", "--data.corpus=none"),
        *("--model.quantizer=my_quantizer.SignQuantizer", "--print_config"),
        path=path,
    )
    assert run.returncode == 0, run.stderr
    assert "class_path: my_quantizer.SignQuantizer" in run.stdout
    assert "The parts of the plugin 'demo' (w2vlab_demo_plugin) are not available" in run.stderr
    assert "No module named 'a_module_that_nobody_has'" in run.stderr
