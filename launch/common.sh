# Functions for the scripts of this folder, which read it (`source`). It is not run by itself.
#
# SELF    the name of the script in messages, such as launch/local.sh
# ROOT    the folder of the repository
# DRY     1 after --dry-run: print the commands without executing them
# COMMAND the words after `--`, as an array
# INSTALL for the TPU scripts: 0 after --skip_install
# shellcheck shell=bash disable=SC2034

DRY=0
COMMAND=()

# Prints the header comment of the script, without its first line and without the signs.
usage() {
  sed -n '2,${ /^#/!q; s/^# \{0,1\}//p; }' "$SCRIPT"
}

say() {
  printf '%s: %s\n' "$SELF" "$*" >&2
}

# tell NAME FOUND MEANING EXAMPLE: reports a variable or an option that is missing or not allowed.
tell() {
  printf '%s: %s: %s\n  meaning: %s\n  example: %s\n' "$SELF" "$1" "$2" "$3" "$4" >&2
}

# refuse: takes the words of tell, reports them and ends the script.
refuse() {
  tell "$@"
  exit 2
}

# need VARIABLE MEANING EXAMPLE
need() {
  if [[ -z ${!1:-} ]]; then
    refuse "$1" "not set" "$2" "export $1=$3"
  fi
}

# need_all VARIABLE MEANING EXAMPLE ...: reports all variables that are not set together.
need_all() {
  local complete=1
  while (( $# )); do
    if [[ -z ${!1:-} ]]; then
      tell "$1" "not set" "$2" "export $1=$3"
      complete=0
    fi
    shift 3
  done
  if (( ! complete )); then
    exit 2
  fi
}

# need_path VARIABLE MEANING EXAMPLE: a full path on another machine.
need_path() {
  need "$@"
  if [[ ! ${!1} =~ ^(/[A-Za-z0-9_.@%+=:-]+)+$ ]]; then
    refuse "$1" "found ${!1}, expected a full path of plain characters" "$2" "export $1=$3"
  fi
}

# need_number NAME FOUND LEAST MEANING EXAMPLE: an option or variable that must be a whole number.
need_number() {
  if [[ -z $2 ]]; then
    refuse "$1" "not given" "$4" "$5"
  fi
  if [[ ! $2 =~ ^[0-9]{1,9}$ ]] || (( 10#$2 < $3 )); then
    refuse "$1" "found $2, expected a whole number from $3" "$4" "$5"
  fi
}

need_tool() {
  if (( ! DRY )) && ! command -v "$1" > /dev/null; then
    refuse "$1" "no such command on PATH" "$2" "$3"
  fi
}

unknown_option() {
  refuse "$1" "no such option" "$SELF --help lists the options; the command to run comes after --" \
    "$SELF --help"
}

# take_command WORDS...: stores the words after `--`.
take_command() {
  COMMAND=("$@")
  if (( ! $# )); then
    refuse "--" "nothing after it" "all words after -- are the command to run" \
      "-- python -m emojax.train --config=configs/rjcma.py --workdir=runs/a"
  fi
}

# The word `python` means that of the repository's .venv if it exists, else that of PATH.
resolve_python() {
  if [[ ${COMMAND[0]} == python ]]; then
    if [[ -x $ROOT/.venv/bin/python ]]; then
      COMMAND[0]=$ROOT/.venv/bin/python
    elif ! command -v python > /dev/null && command -v python3 > /dev/null; then
      COMMAND[0]=python3
    fi
  fi
}

# Prints the words for any shell, in quotes where they are needed.
quoted() {
  local word line="" quote="'"
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      word=$quote${word//$quote/$quote\\$quote$quote}$quote
    fi
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

# Runs a command, or prints it on a dry run.
run() {
  if (( DRY )); then
    quoted "$@"
  else
    "$@"
  fi
}

# --- TPU VMs, of one host or of many ----------------------------------------------------------

# tpu_arguments WORDS...: reads the options and the command of the script, the variables that both
# scripts need, and as paths those whose VARIABLE MEANING EXAMPLE are in MORE_PATHS.
MORE_PATHS=()
tpu_arguments() {
  INSTALL=1
  while (( $# )); do
    case $1 in
      --skip_install) INSTALL=0 ;;
      --dry-run) DRY=1 ;;
      --help) usage; exit 0 ;;
      --) shift; break ;;
      *) unknown_option "$1" ;;
    esac
    shift
  done
  take_command "$@"
  tpu_variables
}

tpu_variables() {
  local i paths=(
    REMOTE_DIR "folder on the TPU VM for the code and its .venv" /home/me/emojax
    ${MORE_PATHS[@]+"${MORE_PATHS[@]}"}
  )
  need_all TPU_NAME "name of the TPU VM, as gcloud compute tpus tpu-vm list shows it" emojax-1 \
    TPU_ZONE "zone that it is in" us-central2-b "${paths[@]}"
  if [[ ! $TPU_ZONE =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]]; then
    refuse TPU_ZONE "found $TPU_ZONE, expected a zone" "zone of the TPU VM, not only its region" \
      "export TPU_ZONE=us-central2-b"
  fi
  for (( i = 0; i < ${#paths[@]}; i += 3 )); do
    need_path "${paths[@]:i:3}"
  done
  REMOTE_PYTHON=${REMOTE_PYTHON:-python3}
  need_tool gcloud "Google Cloud's command line" "gcloud version"
  # The .venv of the other machine, which tpu_install makes.
  if [[ ${COMMAND[0]} == python ]]; then
    COMMAND[0]=.venv/bin/python
  fi
  TPU_FLAGS=("--zone=$TPU_ZONE")
  if [[ -n ${GCP_PROJECT:-} ]]; then
    TPU_FLAGS+=("--project=$GCP_PROJECT")
  fi
}

# tpu_ssh WORKER COMMAND: runs one line of shell on a worker, or on all of them.
tpu_ssh() {
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${TPU_FLAGS[@]}" "--worker=$1" "--command=$2"
}

# tpu_copy WORKER: copies the commit that is checked out, without other files of the folder.
tpu_copy() {
  local packed=$ROOT/build/launch/emojax.tar.gz
  if (( ! DRY )) && [[ -n $(git -C "$ROOT" status --porcelain) ]]; then
    say "changes that are not committed are not copied"
  fi
  run mkdir -p "$ROOT/build/launch"
  run git -C "$ROOT" archive --format=tar.gz "--output=$packed" HEAD
  tpu_ssh "$1" "mkdir -p $REMOTE_DIR"
  run gcloud compute tpus tpu-vm scp "$packed" "$TPU_NAME:$REMOTE_DIR/emojax.tar.gz" \
    "${TPU_FLAGS[@]}" "--worker=$1"
  tpu_ssh "$1" "cd $REMOTE_DIR && tar -xzf emojax.tar.gz"
}

# tpu_install WORKER: installs the locked packages, and the TPU library of the locked JAX.
tpu_install() {
  local old="Python 3.11 or newer is needed; set REMOTE_PYTHON to one that the TPU VM has."
  local steps=(
    "cd $REMOTE_DIR"
    "{ $REMOTE_PYTHON -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo '$old' >&2; exit 3; }; }"
    "$REMOTE_PYTHON -m venv .venv"
    ".venv/bin/python -m pip install --quiet --require-hashes -r requirements.lock"
    ".venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable ."
    ".venv/bin/python -m pip install --quiet \"jax[tpu]==\$(.venv/bin/python -c 'import jax; print(jax.__version__)')\""
  )
  local line
  printf -v line '%s && ' "${steps[@]}"
  tpu_ssh "$1" "${line% && }"
}

# tpu_start WORKER [NAME=VALUE...]: starts the command in the background, so that it outlives the
# connection. run.pid holds the number of the command's process, for signals.
tpu_start() {
  local worker=$1 words inner
  shift
  words=$(quoted env "$@" "${COMMAND[@]}")
  if (( ! $# )); then
    words=$(quoted "${COMMAND[@]}")
  fi
  # shellcheck disable=SC2016  # for the shell of the other machine
  inner='"$@" & echo $! > run.pid; wait $!; echo "ended with status $?"'
  tpu_ssh "$worker" "cd $REMOTE_DIR && if test -f run.pid && kill -0 \$(cat run.pid) 2> /dev/null; \
then echo 'a command that was started before still runs' >&2; exit 3; fi; \
nohup sh -c '$inner' run $words >> run.log 2>&1 < /dev/null &"
}

# tpu_hints WORKER: prints the commands that show the log and stop the training.
tpu_hints() {
  local DRY=1
  echo "# look at it (of a slice: at its first worker)"
  tpu_ssh 0 "tail -n 100 -f $REMOTE_DIR/run.log"
  echo "# stop it: it saves everything, ends with status 75, and the same command continues"
  tpu_ssh "$1" "kill -TERM \$(cat $REMOTE_DIR/run.pid)"
}
