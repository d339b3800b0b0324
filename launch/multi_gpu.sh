#!/usr/bin/env bash
# Runs a command on the GPUs of this machine: one process, which sees them all.
#
#   launch/multi_gpu.sh --gpus=0,1 --restart -- python -m emojax.train \
#       --config=configs/rjcma.py:folds --config.data.store=stores/demo --workdir=runs/a
#
# Replicas and batches are spread over whatever devices a process sees, so that one machine needs
# neither several processes nor any address. The word `python` means .venv/bin/python of this
# repository, if it is there. No variable has to be set.
#
# Options
#   --gpus=0,1,...  which of those that nvidia-smi lists (CUDA_VISIBLE_DEVICES); all by default
#   --restart       calls the command again while it ends with status 75, "stopped, everything is
#                   saved", but not after this script itself was asked to stop
#   --dry-run       prints what would be executed, and executes nothing
#   --help          prints this
#
# SIGTERM and SIGINT go on to the command. The exit status is that of the command.
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
          "which GPUs the command sees" --gpus=0,1
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
need_tool nvidia-smi "it comes with NVIDIA's driver, without which JAX finds no GPU" \
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
      refuse --gpus "found $gpu, but nvidia-smi lists ${known:-none}" "which GPUs the command sees" \
        "--gpus=${known:-0}"
    fi
  done
fi
if [[ -n $gpus ]]; then
  # In the order of nvidia-smi, and not with the fastest first.
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
  # With job control it leads a group of its own, so that a Ctrl-C reaches it once, from here.
  set -m
  "${COMMAND[@]}" < /dev/null &
  child=$!
  set +m
  [[ -z $asked ]] || forward "$asked"
  # A signal ends a wait too, and the command may take a while to save.
  while kill -0 "$child" 2> /dev/null; do
    wait "$child" || true
  done
  status=0
  wait "$child" || status=$?
  if (( ! restart || status != 75 )) || [[ -n $asked ]]; then
    exit "$status"
  fi
  say "stopped with everything saved (status 75): it is started again"
done
