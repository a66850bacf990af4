#!/bin/sh
# Install limbeck into the virtual environment VENV: install.sh PYTHON VENV [EXTRAS], as in `install.sh python3.11 .venv '[dev]'`.
# With uv, which unpacks the 4 GB of torch in a fifth of pip's time, from pip's indexes; with pip where uv fails. torch and
# torchvision come first and together, so that the resolver takes matching releases; without an NVIDIA GPU they are the
# CPU builds, where download.pytorch.org answers.
set -eu
python=$1 venv=$2 extras=${3:-}
cpu_builds=https://download.pytorch.org/whl/cpu

command -v "$python" >/dev/null || {
  echo "limbeck needs Python 3.11 or newer; $python was not found (make PYTHON=python3.12 install)"
  exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"

# The settings of pip (indexes, constraints, certificates) as environment variables of uv.
uv_settings() {
  "$venv/bin/python" -m pip config list | "$venv/bin/python" -c '
import ast, os, shlex, sys

names = {
    "index-url": ("UV_DEFAULT_INDEX", " "), "extra-index-url": ("UV_INDEX", " "), "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "), "cert": ("SSL_CERT_FILE", " "),
}
for line in sys.stdin:
    key, _, value = line.strip().partition("=")
    name, separator = names.get(key.rpartition(".")[2], ("", ""))
    if name and name not in os.environ:
        print(f"export {name}={shlex.quote(separator.join(ast.literal_eval(value).split()))}")
'
}

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  "$venv/bin/python" -m pip install --quiet uv 2>/dev/null && uv=$venv/bin/uv
fi
if [ -n "$uv" ]; then eval "$(uv_settings)"; fi

install() {
  if [ -n "$uv" ] && "$uv" pip install --quiet --index-strategy unsafe-best-match --python "$venv/bin/python" "$@"; then return; fi
  # Python compiles a module when it is first imported, which is sooner than all modules of torch.
  "$venv/bin/python" -m pip install --quiet --no-compile "$@"
}

has_cpu_builds() {
  [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null &&
    "$venv/bin/python" -c "import urllib.request as r; r.urlopen('$cpu_builds/torch/', timeout=5)" 2>/dev/null
}

torch_works() { "$venv/bin/python" -c 'import torch, torchvision; torchvision.ops.nms' 2>/dev/null; }

if ! "$venv/bin/python" -c 'import importlib.util as u; raise SystemExit(not (u.find_spec("torch") and u.find_spec("torchvision")))'; then
  if ! { has_cpu_builds && install --index-url "$cpu_builds" torch torchvision && torch_works; }; then
    install --force-reinstall torch torchvision  # also over CPU builds that do not match
  fi
fi
install -e ".$extras"
torch_works || {
  echo "torch and torchvision in $venv do not match; run make clean, then make install"
  exit 1
}
