#!/usr/bin/env bash
# Runs a command on every host of a TPU slice, whose processes find each other.
#
#   export TPU_NAME=emojax-32 TPU_ZONE=us-central2-b REMOTE_DIR=/home/me/emojax
#   export STORE=/mnt/shared/stores/demo WORKDIR=/mnt/shared/runs/a
#   launch/tpu_slice.sh -- python -m emojax.train --config=configs/rjcma.py:folds \
#       --config.data.store=$STORE --workdir=$WORKDIR
#
# The slice must run already (gcloud compute tpus tpu-vm create), with the same storage mounted at
# the same path of every host: NFS, or a bucket with gcsfuse. Before the start, the script checks
# that each host sees the store, and a file that the first host has just written. It copies the
# commit that is checked out here. The command gets EMOJAX_PROCESSES=auto, by which it joins the
# others (jax.distributed.initialize without arguments). It runs in REMOTE_DIR of each host in the
# background and writes run.log there. At the end this script prints the commands that show the log
# and stop the training. The word `python` means .venv/bin/python of REMOTE_DIR.
#
# Variables
#   TPU_NAME       name of the slice
#   TPU_ZONE       zone of the slice, such as us-central2-b
#   REMOTE_DIR     full path of the folder on each host for the code and its .venv, on the host's
#                  own disk
#   STORE          full path of the store, which the command must name
#   WORKDIR        full path of the run's folder, which the command must name; created if missing
#   GCP_PROJECT    project of the slice; gcloud's default otherwise
#   REMOTE_PYTHON  a Python >= 3.11 on the hosts; python3 otherwise
#
# Options
#   --skip_install  only checks and starts, with the code and packages of the last call
#   --dry-run       prints the commands without executing them
#   --help          prints this text
#
# The exit status is 0 once the command was started.
set -euo pipefail

SCRIPT=${BASH_SOURCE[0]}
ROOT=$(cd "$(dirname "$SCRIPT")/.." && pwd)
SELF=launch/tpu_slice.sh
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

MORE_PATHS=(
  STORE "the store, on storage that every host of the slice sees" /mnt/shared/stores/demo
  WORKDIR "the run's folder, on storage that every host of the slice sees" /mnt/shared/runs/a
)
tpu_arguments "$@"
for variable in STORE WORKDIR; do
  # The command must use the paths that were checked.
  if [[ " ${COMMAND[*]} " != *"${!variable}"* ]]; then
    refuse "$variable" "found ${!variable}, which the command does not name" \
      "the command must use the path that this script checks on every host" \
      "-- python -m emojax.train ... --config.data.store=\$STORE --workdir=\$WORKDIR"
  fi
done

mark=$WORKDIR.shared
tpu_ssh 0 "mkdir -p $(dirname "$WORKDIR") && touch $mark"
tpu_ssh all "{ test -f $STORE/dataset.json || { echo \"\$(hostname): no store at $STORE\" >&2; exit 3; }; } && \
{ test -f $mark || { echo \"\$(hostname): does not see what another host wrote: $mark\" >&2; exit 3; }; }"
tpu_ssh 0 "rm $mark"
if (( INSTALL )); then
  tpu_copy all
  tpu_install all
fi
tpu_start all EMOJAX_PROCESSES=auto
tpu_hints all
