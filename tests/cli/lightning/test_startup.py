"""What `w2vlab fit` imports on its way to the first update."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from w2vlab.cli.lightning.memory import frozen_objects, without_garbage_collection

UNUSED = (
    "torchaudio",
    "sklearn",
    "vector_quantize_pytorch",
    "torch._inductor.compile_fx",
    "w2vlab.callbacks.records.picture",
    "w2vlab.callbacks.diagnosis.codebook_picture",
    "w2vlab.callbacks.diagnosis.gradient_picture",
    "w2vlab.sweeps",
    "w2vlab.reports",
)
"""Not matplotlib itself: torchmetrics imports it if it is installed, and Lightning imports torchmetrics."""

FIRST_UPDATE = '''
import json, sys
from lightning.pytorch import Callback


class FirstUpdate(Callback):
    """Records the imported modules after the first update."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 1:
            with open("modules.json", "w") as file:
                json.dump(list(sys.modules), file)
'''


def fit(config: Path, folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `w2vlab fit` as a user does, in a new process, with the modules of `folder` before all others."""
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "w2vlab", "fit", f"--config={config}", "--trainer.max_steps=2", *args]
    env = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_a_run_imports_nothing_before_its_first_update_that_it_does_not_use(tiny_config: Path, tmp_path: Path) -> None:
    """With Weights & Biases, the default logger, and to the end, at which the other modules draw the run."""
    (tmp_path / "first_update.py").write_text(FIRST_UPDATE)
    run = fit(tiny_config, tmp_path, "--trainer.callbacks+=first_update.FirstUpdate")
    assert run.returncode == 0, run.stderr
    in_order = json.loads((tmp_path / "modules.json").read_text())
    assert in_order.index("wandb.sdk.launch") < in_order.index("torch")  # after it, it takes five times as long
    imported = set(in_order)
    assert {"torch", "lightning.pytorch", "wandb"} <= imported  # otherwise the list below is meaningless
    assert [name for name in UNUSED if name in imported] == []
    assert list(tmp_path.glob("runs/w2vlab/*/report.png"))


@pytest.mark.parametrize(
    ("options", "imported"),
    [
        (["--config=quickstart"], True),
        (["--config=quickstart", "--trainer.logger=false"], False),
        (["--config=quickstart", "--trainer.logger", "configs/logger/csv.yaml"], False),
        (["--config=quickstart", "--print_config"], False),
        (["--help"], False),
    ],
)
def test_weights_and_biases_is_imported_where_it_is_the_logger(options: list[str], imported: bool) -> None:
    code = "import sys; from w2vlab.cli.main import _import_logger; _import_logger(sys.argv[1:])"
    look = f"{code}; assert ('wandb' in sys.modules) is {imported}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", look, *options]).returncode == 0


def test_collection_of_garbage_is_as_it_was_before() -> None:
    frozen = gc.get_freeze_count()
    with without_garbage_collection():
        assert not gc.isenabled()
        with frozen_objects():
            assert gc.get_freeze_count() > frozen
        with without_garbage_collection():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
