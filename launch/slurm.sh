#!/usr/bin/env bash
# Runs a command on the GPUs of several nodes under SLURM, one process for each GPU, and continues it
# after a stop.
#
#   export NODES=2 GPUS_PER_NODE=4 TIME_LIMIT=12:00:00
#   launch/slurm.sh -- python -m emojax.train --config=configs/rjcma.py:folds \
#       --config.data.store=/shared/stores/demo --workdir=/shared/runs/a
#
# Called by hand it submits itself with sbatch; within the job (or an salloc) it calls srun. The
# repository, its .venv, the store and the workdir must be on storage that all nodes see. The word
# `python` means .venv/bin/python of this repository, if it exists.
#
# There is one process for each GPU because JAX gives each SLURM task the GPU with the number of the
# task on its node; with one task per node, all GPUs but the first would be idle. Each process gets
# EMOJAX_PROCESSES=auto, by which it joins the others (jax.distributed.initialize without arguments,
# which reads SLURM's variables).
#
# 120 s before the time limit SLURM sends SIGTERM to the processes. They save and end with status 75.
# The job is then put into the queue again, with the same number and the same log,
# slurm-NUMBER.log. The same happens after a node has failed (--requeue).
#
# Variables
#   NODES          number of nodes
#   GPUS_PER_NODE  number of GPUs, and so of processes, on each node
#   TIME_LIMIT     time limit of the job, as sbatch's --time: minutes, H:MM:SS or D-HH:MM:SS
#   SBATCH_PARTITION, SBATCH_ACCOUNT and the like are read by sbatch itself
#
# Options
#   --dry-run      prints the commands without executing them
#   --help         prints this text
#
# Within the job the exit status is srun's, the highest of all processes.

#SBATCH --job-name=emojax
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

SCRIPT=${BASH_SOURCE[0]}
SELF=launch/slurm.sh
# SLURM runs a copy of this file in another folder.
ROOT=${EMOJAX_ROOT:-$(cd "$(dirname "$SCRIPT")/.." && pwd)}
if [[ ! -f $ROOT/launch/common.sh ]]; then
  ROOT=${SLURM_SUBMIT_DIR:-$ROOT}
fi
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

while (( $# )); do
  case $1 in
    --dry-run) DRY=1 ;;
    --help) usage; exit 0 ;;
    --) shift; break ;;
    *) unknown_option "$1" ;;
  esac
  shift
done
take_command "$@"

if [[ -z ${SLURM_JOB_ID:-} ]]; then
  need_number NODES "${NODES:-}" 1 "number of nodes of the job" "export NODES=2"
  need_number GPUS_PER_NODE "${GPUS_PER_NODE:-}" 1 "GPUs of each node, and processes on it" \
    "export GPUS_PER_NODE=4"
  need TIME_LIMIT "time limit of the job" 12:00:00
  if [[ ! $TIME_LIMIT =~ ^([0-9]+-)?[0-9]+(:[0-9]{1,2}){0,2}$ ]]; then
    refuse TIME_LIMIT "found $TIME_LIMIT, expected minutes, H:MM:SS or D-HH:MM:SS" \
      "time limit of the job" "export TIME_LIMIT=12:00:00"
  fi
  need_tool sbatch "the program that submits jobs to SLURM" "sbatch --version"
  run env "EMOJAX_ROOT=$ROOT" sbatch "--nodes=$NODES" "--ntasks-per-node=$GPUS_PER_NODE" \
    "--gpus-per-node=$GPUS_PER_NODE" "--time=$TIME_LIMIT" "$ROOT/launch/slurm.sh" -- "${COMMAND[@]}"
  (( DRY )) || exit 0
  echo "# then, in the job"
fi

resolve_python
need_tool srun "the program that starts the processes of a job" "srun --version"
# All GPUs of a node are visible to each of its tasks, because JAX picks one by its number. A process
# that ends must not end the others, which may still be saving or writing reports. When one dies,
# JAX itself ends the rest.
step=(env EMOJAX_PROCESSES=auto srun --gpu-bind=none --kill-on-bad-exit=0 --wait=0 "${COMMAND[@]}")
if (( DRY )); then
  quoted "${step[@]}"
  exit 0
fi
# SLURM may send SIGTERM to this script as well; the result is srun's status.
trap 'say "SIGTERM: waiting for the processes to save"' TERM
status=0
"${step[@]}" || status=$?
if (( status == 75 )); then
  say "stopped with everything saved (status 75): job $SLURM_JOB_ID goes into the queue again"
  scontrol requeue "$SLURM_JOB_ID" || say "it could not be; submit it again, and it continues"
fi
exit "$status"
