#!/usr/bin/env bash
# Runs a command on every host of a TPU slice, where the processes find each other by themselves.
#
#   export TPU_NAME=emojax-32 TPU_ZONE=us-central2-b REMOTE_DIR=/home/me/emojax
#   export STORE=/mnt/shared/stores/demo WORKDIR=/mnt/shared/runs/a
#   launch/tpu_slice.sh -- python -m emojax.train --config=configs/rjcma.py:folds \
#       --config.data.store=$STORE --workdir=$WORKDIR
#
# The slice must run already (gcloud compute tpus tpu-vm create), with the same storage mounted at
# the same place of every host: NFS, or a bucket with gcsfuse. Before anything is started, each
# host is asked whether it sees the store, and a file that the first host has just written. What
# is copied is the commit that is checked out here. The command gets EMOJAX_PROCESSES=auto, by
# which it joins the others (jax.distributed.initialize without arguments). It runs in REMOTE_DIR
# of each host in the background and writes run.log there; at the end this script prints how to
# look at it and how to stop it. The word `python` means .venv/bin/python of REMOTE_DIR.
#
# Variables
#   TPU_NAME       name of the slice
#   TPU_ZONE       its zone, such as us-central2-b
#   REMOTE_DIR     full path of the folder on each host for the code and its .venv, on the host's
#                  own disk
#   STORE          full path of the store, which the command must name
#   WORKDIR        full path of the run's folder, which the command must name; made if not there
#   GCP_PROJECT    its project; gcloud's own default otherwise
#   REMOTE_PYTHON  a Python >= 3.11 there; python3 otherwise
#
# Options
#   --skip_install  only checks and starts; code and packages are there from the last time
#   --dry-run       prints what would be executed, and executes nothing
#   --help          prints this
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
  # What was checked has to be what is used.
  if [[ " ${COMMAND[*]} " != *"${!variable}"* ]]; then
    refuse "$variable" "found ${!variable}, which the command does not name" \
      "the command must use what this script checks on every host" \
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
