#!/usr/bin/env bash
# One run of a sweep file for each task of a Slurm array, from the checkout's root:
#
#     sbatch --array=1-3 sweeps/array.sh sweeps/digits-seeds.yml
#
# The dry run says how many there are. A task that is killed goes on where it was when Slurm queues it again.
#SBATCH --job-name=nclib
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-task=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=slurm-%A-%a.out
set -euo pipefail
exec "${PYTHON:-.venv/bin/python}" -m press sweep "$1" --select "$SLURM_ARRAY_TASK_ID"
