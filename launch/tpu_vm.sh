#!/usr/bin/env bash
# Runs a command on a TPU VM of one host: copies the code, installs it, starts the command.
#
#   export TPU_NAME=emojax-1 TPU_ZONE=us-central2-b REMOTE_DIR=/home/me/emojax
#   launch/tpu_vm.sh -- python -m emojax.train --config=configs/rjcma.py:folds \
#       --config.data.store=/home/me/stores/demo --workdir=/home/me/runs/a
#
# The TPU VM must run already (gcloud compute tpus tpu-vm create), and hold the store. What is
# copied is the commit that is checked out here. The command runs in REMOTE_DIR in the background
# and writes run.log there; at the end this script prints how to look at it and how to stop it.
# The word `python` means .venv/bin/python of REMOTE_DIR.
#
# Variables
#   TPU_NAME       name of the TPU VM
#   TPU_ZONE       its zone, such as us-central2-b
#   REMOTE_DIR     full path of the folder there for the code and its .venv; made if not there
#   GCP_PROJECT    its project; gcloud's own default otherwise
#   REMOTE_PYTHON  a Python >= 3.11 there; python3 otherwise
#
# Options
#   --skip_install  only starts the command; code and packages are there from the last time
#   --dry-run       prints what would be executed, and executes nothing
#   --help          prints this
#
# The exit status is 0 once the command was started.
set -euo pipefail

SCRIPT=${BASH_SOURCE[0]}
ROOT=$(cd "$(dirname "$SCRIPT")/.." && pwd)
SELF=launch/tpu_vm.sh
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

tpu_arguments "$@"

if (( INSTALL )); then
  tpu_copy 0
  tpu_install 0
fi
tpu_start 0
tpu_hints 0
