#!/usr/bin/env bash
# make kit: pack what a machine without internet needs to make the book. kit/pack.sh [FOLDER], default _build/kit.
#   KIT_TORCH=system   leave out torch and torchvision: the other machine's own are used
#   KIT_DATA=FOLDER    take this data folder along
#   KIT_WHEELS=no      code only
# Wheels are for PYTHON (default python3) and this kind of machine.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) torch=${KIT_TORCH:-wheels} wheels=${KIT_WHEELS:-yes} data=${KIT_DATA:-}
refuse() { echo "$1" >&2; exit 1; }
case $torch in wheels | system) ;; *) refuse "KIT_TORCH: unknown '$torch'; choose wheels or system" ;; esac
case $wheels in yes | no) ;; *) refuse "KIT_WHEELS: unknown '$wheels'; choose yes or no" ;; esac
[ -z "$data" ] || [ -d "$data" ] || refuse "KIT_DATA: no folder '$data'"

kit=${1:-$here/../_build/kit} part=${1:-$here/../_build/kit}.part
rm -rf "$part"
mkdir -p "$part"
# A clone, not an archive: records made there name the commit that made them.
git clone -q --depth 1 "file://$(git -C "$here" rev-parse --show-toplevel)" "$part/code"
git -C "$part/code" remote remove origin
[ "$torch" = wheels ] || sed -i '/^torch/d' "$part/code/requirements.txt"
[ -z "$data" ] || cp -rL "$data" "$part/data"
if [ "$wheels" = yes ]; then
  needed=()
  for file in "$part"/code/requirements*.txt; do needed+=(-r "$file"); done
  "${PYTHON:-python3}" -m pip wheel -q --disable-pip-version-check --wheel-dir "$part/wheels" \
    "${needed[@]}" 'setuptools>=77'
  "${PYTHON:-python3}" -c 'import platform; print(*platform.python_version_tuple()[:2], sep=".")' >"$part/python"
fi
cp "$here/run.sh" "$here/README.txt" "$part"
rm -rf "$kit"
mv "$part" "$kit"
du -sh "$kit"
