#!/usr/bin/env bash
# ./gpu.sh [MINUTES] [OUT]: what a borrowed GPU is for, from a checkout, with nothing but a Python that has torch.
# CUDA tests, benchmarks, then the trainings of PROFILE (default cifar10), one after the other, until the time is up.
# All that it leaves lies in OUT (default _build/gpu): report.txt, a file per step, and runs/, which the next call, here
# or elsewhere, goes on with. Data sets that are not in ~/.cache/nclib lie in NCLIB_DATA. Nothing is downloaded.
# SKIP="tests bench" leaves these steps out.
set -uo pipefail
cd "$(dirname "$0")/.."
minutes=${1:-30} out=$(realpath -m "${2:-_build/gpu}") profile=${PROFILE:-cifar10} python=${PYTHON:-python3}
refuse() { echo "$1" >&2; exit 1; }
[[ $minutes =~ ^[0-9]+$ && $minutes -gt 0 ]] || refuse "MINUTES must be a whole number above 0, not '$minutes'"
[ -f "profiles/$profile.yml" ] || refuse "no profile '$profile' in profiles/"
"$python" -c 'import torch' 2>/dev/null || refuse "$python has no torch: set PYTHON to one that has"
mkdir -p "$out/runs"
end=$((SECONDS + 60 * minutes)) report=$out/report.txt
export PYTHONPATH=$PWD NCLIB_HOME=$PWD
left() { echo $((end - SECONDS)); }

step() { # step NAME SECONDS COMMAND...: run it within its time and what is left, its words in a file, its fate in the report
  local name=$1 limit=$2
  shift 2
  [[ " ${SKIP:-} " != *" ${name%%-*} "* ]] || return 0
  ((limit < $(left))) || limit=$(left)
  ((limit > 0)) || { echo "$name: no time left" | tee -a "$report"; return; }
  local began=$SECONDS
  timeout -s TERM "$limit" "$@" >"$out/$name.txt" 2>&1
  echo "$name: exit $? after $((SECONDS - began)) s (124: its time was up; the same command goes on)" | tee -a "$report"
}

echo "== $(date -u +%FT%TZ) $(git rev-parse --short HEAD 2>/dev/null) profile $profile, $minutes minutes" | tee -a "$report"
step doctor 60 "$python" -m press doctor
cat "$out/doctor.txt" >>"$report"
"$python" -c 'import pytest, xdist' 2>/dev/null && step tests 300 "$python" -m pytest tests/nclib -n 0 -k "cuda or gpu"
device=$("$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")') size=()
[ "$device" = cpu ] || size=(--width 64 --images 1280) # small networks only keep a GPU waiting
step bench-training 180 "$python" benchmarks/training.py --device "$device" "${size[@]}"
step bench-attacks 180 "$python" benchmarks/attacks.py --device "$device"
for training in standard adversarial "trades fixed" "trades published"; do
  step "train-${training// /-}" "$(left)" "$python" - "$out/runs" "$profile" $training <<'PYTHON'
import dataclasses, sys
import yaml
import nclib as nc
from nclib.evidence.pages import number

root, profile, training, *batchnorm = sys.argv[1:]
known = {field.name for field in dataclasses.fields(nc.Recipe)}
values = {k: number(v) for k, v in yaml.safe_load(open(f"profiles/{profile}.yml")).items() if k in known}
recipe = nc.Recipe(**values, training=training, trades_batchnorm=(batchnorm or ["fixed"])[0])
run = nc.fit(recipe, root)
print(run.path, f"{run.seconds:.0f} s", run.history.query("epoch == epoch.max()").to_string(), sep="\n")
PYTHON
done
echo "pieces: $out (tar it, and put runs/ where the next call finds it)" | tee -a "$report"
