#!/usr/bin/env bash
# Runs a command as several processes on this machine, which find each other over loopback.
#
#   launch/local.sh --processes=2 -- python -m emojax.train --config=configs/rjcma.py \
#       --config.data.store=stores/demo --workdir=runs/a
#
# Each process gets JAX_COORDINATOR_ADDRESS=127.0.0.1:PORT (a free port), JAX_NUM_PROCESSES and
# JAX_PROCESS_ID. The word `python` means .venv/bin/python of this repository, if it is there.
# No variable has to be set.
#
# Options
#   --processes=N           number of processes; required
#   --devices_per_process=K each simulates K devices on the CPU (JAX_NUM_CPU_DEVICES=K, and
#                           JAX_PLATFORMS=cpu unless it is set)
#   --grace=SECONDS         time that the others may go on after one process has failed (60); then
#                           they are killed
#   --pids=FILE             writes the processes' numbers to the file, a line for each, in order
#   --dry-run               prints the commands without executing them
#   --help                  prints this text
#
# Every line of output begins with the number of its process. SIGTERM and SIGINT are passed on to
# every process. The exit status is 0 if all processes end with 0, else that of the first that failed
# (128 + the signal, if one was killed): 75 after SIGTERM means that all is saved and the same
# command continues.
set -euo pipefail

SCRIPT=${BASH_SOURCE[0]}
ROOT=$(cd "$(dirname "$SCRIPT")/.." && pwd)
SELF=launch/local.sh
source "$ROOT/launch/common.sh"

processes=
devices=
grace=60
pids_file=
while (( $# )); do
  case $1 in
    --processes=*) processes=${1#*=} ;;
    --devices_per_process=*) devices=${1#*=} ;;
    --grace=*) grace=${1#*=} ;;
    --pids=*) pids_file=${1#*=} ;;
    --dry-run) DRY=1 ;;
    --help) usage; exit 0 ;;
    --) shift; break ;;
    *) unknown_option "$1" ;;
  esac
  shift
done
need_number --processes "$processes" 1 "number of processes to start" --processes=2
need_number --grace "$grace" 0 "seconds that the others may go on after one has failed" --grace=60
if [[ -n $devices ]]; then
  need_number --devices_per_process "$devices" 1 "CPU devices that each process simulates" \
    --devices_per_process=4
fi
take_command "$@"
resolve_python

# The port is free now. If another program takes it before the start, the start fails at once.
finder=python3
if [[ -x $ROOT/.venv/bin/python ]]; then
  finder=$ROOT/.venv/bin/python
fi
port=$("$finder" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

# words_of I: stores the command of process I in the array WORDS.
words_of() {
  WORDS=(env "JAX_COORDINATOR_ADDRESS=127.0.0.1:$port" "JAX_NUM_PROCESSES=$processes" "JAX_PROCESS_ID=$1")
  if [[ -n $devices ]]; then
    WORDS+=("JAX_NUM_CPU_DEVICES=$devices" "JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}")
  fi
  WORDS+=("${COMMAND[@]}")
}

if (( DRY )); then
  for (( i = 0; i < processes; i++ )); do
    words_of "$i"
    quoted "${WORDS[@]}"
  done
  exit 0
fi

scratch=$(mktemp -d)
pids=()
running=()
relays=()
asked=
all_started=
failed=
status=0

# The processes end with this script, in whatever way it ends.
# shellcheck disable=SC2317  # called by the trap
clean_up() {
  local i
  for i in "${!running[@]}"; do
    kill -KILL -- "-${pids[i]}" 2> /dev/null || true
  done
  rm -rf "$scratch"
}
trap clean_up EXIT

forward() {
  local i
  asked=$1
  # Processes that are not started yet must get the signal, too.
  [[ -n $all_started ]] || return 0
  say "SIG$1: passed on to ${#running[@]} process(es)"
  for i in "${!running[@]}"; do
    kill -s "$1" "${pids[i]}" 2> /dev/null || true
  done
}
trap 'forward TERM' TERM
trap 'forward INT' INT

# relay I: prints standard input, with the number of the process before each line.
relay() {
  local line
  # A Ctrl-C reaches this function, too; the last output of the processes must still appear.
  trap '' INT TERM
  while IFS= read -r line || [[ -n $line ]]; do
    printf '[%s] %s\n' "$1" "$line"
  done
}

for (( i = 0; i < processes; i++ )); do
  mkfifo "$scratch/$i.out" "$scratch/$i.err"
  relay "$i" < "$scratch/$i.out" &
  relays+=("$!")
  relay "$i" < "$scratch/$i.err" >&2 &
  relays+=("$!")
  words_of "$i"
  # With job control each process leads a group of its own. So a Ctrl-C reaches it once, through
  # this script, and SIGINT is not ignored, as it is in background processes of scripts.
  set -m
  "${WORDS[@]}" < /dev/null > "$scratch/$i.out" 2> "$scratch/$i.err" &
  pids+=("$!")
  set +m
  running[i]=1
done
if [[ -n $pids_file ]]; then
  printf '%s\n' "${pids[@]}" > "$scratch/pids"
  # Renamed when complete, for programs that wait for the file.
  mv "$scratch/pids" "$pids_file"
fi
all_started=1
if [[ -n $asked ]]; then
  forward "$asked"
fi

# ended I: reports the end of a process.
ended() {
  local code=0 how
  wait "${pids[$1]}" 2> /dev/null || code=$?
  unset "running[$1]"
  # Processes that it left running would keep its output open.
  kill -KILL -- "-${pids[$1]}" 2> /dev/null || true
  how="ended with status $code"
  if (( code > 128 )) && kill -l "$(( code - 128 ))" > /dev/null 2>&1; then
    how="was ended by SIG$(kill -l "$(( code - 128 ))")"
  fi
  (( code )) || return 0
  say "process $1 $how"
  if (( ! status )); then
    status=$code
    failed=$1
    deadline=$(( SECONDS + grace ))
  fi
}

mkfifo "$scratch/tick"
exec 9<> "$scratch/tick"
while (( ${#running[@]} )); do
  for i in "${!running[@]}"; do
    kill -0 "${pids[i]}" 2> /dev/null || ended "$i"
  done
  if [[ -n $failed ]] && (( ${#running[@]} && SECONDS >= deadline )); then
    for i in "${!running[@]}"; do
      say "process $i still ran $grace s after process $failed had failed: it is killed"
      kill -KILL -- "-${pids[i]}" 2> /dev/null || true
    done
    deadline=$(( SECONDS + 1 ))
  fi
  # No process writes to it, so this is a wait that a signal ends at once.
  read -r -t 0.1 -u 9 || true
done
wait "${relays[@]}" || true
exit "$status"
