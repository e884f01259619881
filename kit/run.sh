#!/usr/bin/env bash
# ./run.sh [PROFILE]: make the book from this kit, without touching a network (README.txt says more).
set -euo pipefail
cd "$(dirname "$0")"
profile=${1:-digits} python=${PYTHON:-python3}
refuse() { echo "$1" >&2; exit 1; }
[ -d wheels ] || refuse "no wheels in this kit: pack it again, without KIT_WHEELS=no"
version=$("$python" -c 'import platform; print(*platform.python_version_tuple()[:2], sep=".")')
[ "$version" = "$(cat python)" ] ||
  refuse "$python is Python $version, the wheels are for $(cat python): set PYTHON, or pack with that one"
[ ! -d data ] || export NCLIB_DATA="$PWD/data"
cd code
export PIP_NO_INDEX=1 PIP_FIND_LINKS=../wheels # relative: pip would split a path at its spaces
if [ "${KIT_TORCH:-}" = system ] && grep -q '^torch' requirements.txt; then
  sed -i '/^torch/d' requirements.txt
fi
make .venv/installed PYTHON="$python"
if ! grep -q '^torch' requirements.txt; then
  # Behind the venv's own packages, after they are installed: none is left out because the machine has another copy.
  "$python" -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' \
    >"$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/system-torch.pth"
  .venv/bin/python -c 'import torch, torchvision' 2>/dev/null || refuse "$python has no torch and torchvision that work: \
set PYTHON to one that has, or pack without KIT_TORCH=system"
fi
make book PROFILE="$profile"
