#!/usr/bin/env bash
# pydantic 2.14.4: with `use_attribute_docstrings`, `Model[int]` gets slower with every imported module.
#
# Packages   pydantic 2.14.4; seen on 2026-11-29, Linux x86-64, Python 3.11 (3.12.1 too; not with 3.13.0).
# Expected   A class that pydantic creates for `Box[Kind]` has no source code to search for docstrings, so it takes about
#            the same time with the option `use_attribute_docstrings` as without, in a large program as in a small one.
# Actual     pydantic searches a `class` statement of that name in every frame of the stack, up to the main program, and
#            finds none. `inspect.getmodule` iterates over sys.modules for each frame of the import system, and
#            each module that is being imported adds several of these. So the time grows with the product of imported
#            modules and import depth: with 3,000 modules imported, and below ten modules that import one
#            another, 66 ms a class with the option and 0.24 ms without. The description of the field is found anyway.
# Seen       option off  models           0 other modules:   0.24 ms a class
#            option off  models        3000 other modules:   0.24 ms a class
#            option off  deep.level_0     0 other modules:   0.24 ms a class
#            option off  deep.level_0  3000 other modules:   0.24 ms a class
#            option on   models           0 other modules:   1.53 ms a class
#            option on   models        3000 other modules:   8.32 ms a class
#            option on   deep.level_0     0 other modules:   7.74 ms a class
#            option on   deep.level_0  3000 other modules:  66.45 ms a class
# Affects    wandb 0.31.0, which sets the option: `import wandb.sdk.launch` took 0.15 s of processor time alone, 0.64
#            and 0.89 s after torch 2.14.1 and lightning 2.6.6 (3,164 modules more). Not run here: they are 3 GB.
# Workaround Import the package that has the models before the large ones, or use Python 3.13.
#
# Downloads about 3 MB. Compares processor times, with wide margins.
# Ends with status 0 as long as the behavior is as described here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

python3 -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else "needs Python 3.11 or 3.12")'
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pydantic==2.14.4
cd "$folder"

cat >models.py <<'PYTHON'
import os
import time
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

Content = TypeVar("Content")


class Box(BaseModel, Generic[Content]):
    model_config = ConfigDict(use_attribute_docstrings=os.environ["OPTION"] == "on")
    content: Content
    """What is inside."""


kinds = [type(f"Kind{number}", (BaseModel,), {}) for number in range(21)]
Box[kinds.pop()]  # the first fills caches
begin = time.process_time()
boxes = [Box[kind] for kind in kinds]
milliseconds = 1000 * (time.process_time() - begin) / len(kinds)
PYTHON

# A package whose modules import one another, ten levels deep, and one with as many modules as a large library.
mkdir deep many
for level in {0..8}; do
  echo "from deep.level_$((level + 1)) import boxes, milliseconds" >"deep/level_$level.py"
done
echo "from models import boxes, milliseconds" >deep/level_9.py
for number in {1..3000}; do : >"many/module_$number.py"; done

cat >measure.py <<'PYTHON'
import importlib
import os
import statistics
import subprocess
import sys

if len(sys.argv) > 1:
    name, modules = sys.argv[1:]
    for number in range(int(modules)):
        importlib.import_module(f"many.module_{number + 1}")
    models = importlib.import_module(name)
    description = models.boxes[0].model_fields["content"].description
    assert description == ("What is inside." if os.environ["OPTION"] == "on" else None), description
    print(models.milliseconds)
    raise SystemExit


def measure(option, name, modules):
    """Returns the median of three processes: milliseconds of processor time for a class such as `Box[int]`."""
    command = [sys.executable, __file__, name, str(modules)]
    environment = os.environ | {"OPTION": option}
    runs = [subprocess.run(command, env=environment, check=True, capture_output=True, text=True) for _ in range(3)]
    return statistics.median(float(run.stdout) for run in runs)


cost = {}
for option in ("off", "on"):
    for name in ("models", "deep.level_0"):
        for modules in (0, 3000):
            cost[option, name, modules] = measure(option, name, modules)
            milliseconds = cost[option, name, modules]
            print(f"option {option:3}  {name:12}  {modules:4} other modules: {milliseconds:6.2f} ms a class")
assert cost["on", "deep.level_0", 3000] > 20 * cost["off", "deep.level_0", 3000], "the option costs little now"
assert cost["on", "deep.level_0", 3000] > 4 * cost["on", "deep.level_0", 0], "other modules cost little now"
assert cost["on", "deep.level_0", 3000] > 4 * cost["on", "models", 3000], "importing modules cost little now"
PYTHON
"$folder/env/bin/python" measure.py
