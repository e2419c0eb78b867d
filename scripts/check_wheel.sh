#!/usr/bin/env bash
# Builds wheel and sdist, installs the wheel into a separate environment and runs it in an empty folder:
#
#     pip install -e ".[dev]" && scripts/check_wheel.sh
#
# The other packages are those of `python`; nothing is installed into it.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH    # otherwise the clone would run instead of the wheel
export PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '\n--- %s\n' "$1"; }

say "build the sdist, the wheel from it, and the wheel from the tree"
python -m build --outdir "$work/dist" "$root" > "$work/log" || { cat "$work/log"; exit 1; }
python -m build --wheel --outdir "$work/tree" "$root" > "$work/log" || { cat "$work/log"; exit 1; }

say "what is in them"
python - "$root" "$work" <<'PYTHON'
import sys
import tarfile
import zipfile
from pathlib import Path

root, work = map(Path, sys.argv[1:])


def only(folder, pattern):
    (path,) = (work / folder).glob(pattern)
    return path


def contents(path):
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


wheel, of_tree = contents(only("dist", "*.whl")), contents(only("tree", "*.whl"))
different = {name for name in wheel.keys() | of_tree.keys() if wheel.get(name) != of_tree.get(name)}
assert not different, f"the wheel from the sdist differs from that of the tree: {sorted(different)}"

with tarfile.open(only("dist", "*.tar.gz")) as archive:
    sdist = {name.partition("/")[2] for name in archive.getnames()}
package = [path for path in (root / "w2vlab").rglob("*") if path.suffix in (".py", ".yaml") or path.name == "py.typed"]
recipes = [path for path in (root / "configs").rglob("*") if path.is_file()]
needed = {path.relative_to(root).as_posix() for path in package}
in_sdist = needed | {path.relative_to(root).as_posix() for path in recipes}
in_wheel = needed | {f"w2vlab/{path.relative_to(root).as_posix()}" for path in recipes}
assert {"w2vlab/py.typed", "w2vlab/reports/published.yaml", "w2vlab/configs/quickstart.yaml"} <= in_wheel
for name, there, wanted in (("wheel", wheel.keys(), in_wheel), ("sdist", sdist, in_sdist)):
    assert wanted <= there, f"the {name} lacks {sorted(wanted - there)}"
foreign = {name for name in wheel if not name.startswith("w2vlab")}
assert not foreign, f"the wheel would install files outside of the package: {sorted(foreign)}"
print(f"wheel: {len(wheel)} files, {len(recipes)} of them recipes, the same from sdist and tree; sdist: {len(sdist)} files")
PYTHON

say "install the wheel"
python -m venv "$work/venv"
site=$("$work/venv/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
# Paths only, so that an editable installation of the clone, which has a separate .pth file, is not used.
python -c "import sysconfig; print(*{sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}, sep='\n')" > "$site/others.pth"
"$work/venv/bin/pip" install --no-deps "$work"/dist/*.whl
export PATH="$work/venv/bin:$PATH"
mkdir "$work/empty"
cd "$work/empty"
python - "$work" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import soundfile

import w2vlab

assert Path(w2vlab.__file__).is_relative_to(Path(sys.argv[1]).resolve()), f"{w2vlab.__file__} is not the wheel's"
Path("corpus").mkdir()
noise = np.random.default_rng(0)
for number in range(24):
    samples = noise.normal(size=40_000 + 500 * number) * 0.1
    samples *= np.sin(np.arange(len(samples)) / (300 + 20 * number))
    soundfile.write(f"corpus/{number:02}.wav", samples.astype(np.float32), 16_000)
PYTHON

run() { say "$*"; "$@"; }
tiny=(--data.corpus=corpus --data.batch_seconds=5 --data.cache_dir=cache)
run w2vlab configs
run w2vlab configs copy quickstart
run w2vlab fit --config quickstart "${tiny[@]}" --trainer.max_steps=2 --trainer.val_check_interval=1
run w2vlab fit --config quickstart.yaml --model.quantizer=quantizer/ema --trainer.logger=logger/csv "${tiny[@]}" --trainer.max_steps=1
run w2vlab fit --config quickstart.yaml --model.quantizer=quantizer/ema --trainer.logger=logger/csv "${tiny[@]}" \
  --trainer.max_steps=2 --ckpt_path="$(echo "$PWD"/runs/w2vlab/version_0/checkpoints/last.ckpt)"
run w2vlab explain --config quickstart --no_gradients
run w2vlab sweep sweeps/quantizers_small --dry-run
run w2vlab report runs
say "the wheel is whole"
