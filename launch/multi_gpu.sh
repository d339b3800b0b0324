#!/usr/bin/env bash
# Runs a command on the GPUs of this machine: one process, which sees them all.
#
#   launch/multi_gpu.sh --gpus=0,1 --restart -- python -m emojax.train \
#       --config=configs/rjcma.py:folds --config.data.store=stores/demo --workdir=runs/a
#
# Replicas and batches are spread over all devices that a process sees, so one machine needs neither
# several processes nor an address. The word `python` means .venv/bin/python of this repository, if
# it exists. No variable has to be set.
#
# Options
#   --gpus=0,1,...  numbers of GPUs in nvidia-smi's list (CUDA_VISIBLE_DEVICES); all by default
#   --restart       starts the command again when it ends with status 75 ("stopped, everything is
#                   saved"), unless this script itself was asked to stop
#   --dry-run       prints the commands without executing them
#   --help          prints this text
#
# SIGTERM and SIGINT are passed on to the command. The exit status is that of the command.
set -euo pipefail

SCRIPT=${BASH_SOURCE[0]}
ROOT=$(cd "$(dirname "$SCRIPT")/.." && pwd)
SELF=launch/multi_gpu.sh
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

gpus=
restart=0
while (( $# )); do
  case $1 in
    --gpus=*)
      gpus=${1#*=}
      if [[ ! $gpus =~ ^[0-9]+(,[0-9]+)*$ ]]; then
        refuse --gpus "found ${gpus:-nothing}, expected numbers with commas between them" \
          "numbers of the GPUs that the command sees" --gpus=0,1
      fi
      ;;
    --restart) restart=1 ;;
    --dry-run) DRY=1 ;;
    --help) usage; exit 0 ;;
    --) shift; break ;;
    *) unknown_option "$1" ;;
  esac
  shift
done
take_command "$@"
resolve_python
need_tool nvidia-smi "a part of NVIDIA's driver, without which JAX finds no GPU" \
  "nvidia-smi --query-gpu=index --format=csv,noheader"

ask=(nvidia-smi --query-gpu=index "--format=csv,noheader")
if (( DRY )); then
  echo "# which GPUs are there"
  quoted "${ask[@]}"
  echo "# then"
else
  known=$("${ask[@]}" | tr -d ' ' | paste -sd ,)
  for gpu in ${gpus//,/ }; do
    if [[ ",$known," != *",$gpu,"* ]]; then
      refuse --gpus "found $gpu, but nvidia-smi lists ${known:-none}" "numbers of the GPUs that the command sees" \
        "--gpus=${known:-0}"
    fi
  done
fi
if [[ -n $gpus ]]; then
  # Number GPUs in the order of nvidia-smi, not with the fastest first.
  COMMAND=(env CUDA_DEVICE_ORDER=PCI_BUS_ID "CUDA_VISIBLE_DEVICES=$gpus" "${COMMAND[@]}")
fi
if (( DRY )); then
  quoted "${COMMAND[@]}"
  exit 0
fi

child=
asked=
forward() {
  asked=$1
  if [[ -n $child ]]; then
    kill -s "$1" "$child" 2> /dev/null || true
  fi
}
trap 'forward TERM' TERM
trap 'forward INT' INT

while true; do
  # With job control the command leads a group of its own, so that a Ctrl-C reaches it once.
  set -m
  "${COMMAND[@]}" < /dev/null &
  child=$!
  set +m
  [[ -z $asked ]] || forward "$asked"
  # A signal ends the wait, too, but the command may still be saving.
  while kill -0 "$child" 2> /dev/null; do
    wait "$child" || true
  done
  status=0
  wait "$child" || status=$?
  if (( ! restart || status != 75 )) || [[ -n $asked ]]; then
    exit "$status"
  fi
  say "stopped with everything saved (status 75): the command is started again"
done
