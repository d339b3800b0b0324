#!/usr/bin/env bash
# Runs a command on a TPU VM of one host: copies the code, installs it, starts the command.
#
#   export TPU_NAME=emojax-1 TPU_ZONE=us-central2-b REMOTE_DIR=/home/me/emojax
#   launch/tpu_vm.sh -- python -m emojax.train --config=configs/rjcma.py:folds \
#       --config.data.store=/home/me/stores/demo --workdir=/home/me/runs/a
#
# The TPU VM must run already (gcloud compute tpus tpu-vm create) and hold the store. The script
# copies the commit that is checked out here. The command runs in REMOTE_DIR in the background and
# writes run.log there. At the end this script prints the commands that show the log and stop the
# training. The word `python` means .venv/bin/python of REMOTE_DIR.
#
# Variables
#   TPU_NAME       name of the TPU VM
#   TPU_ZONE       zone of the TPU VM, such as us-central2-b
#   REMOTE_DIR     full path of its folder for the code and the .venv; created if missing
#   GCP_PROJECT    project of the TPU VM; gcloud's default otherwise
#   REMOTE_PYTHON  a Python >= 3.11 on the TPU VM; python3 otherwise
#
# Options
#   --skip_install  only starts the command, with the code and packages of the last call
#   --dry-run       prints the commands without executing them
#   --help          prints this text
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
