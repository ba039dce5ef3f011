#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The part of tpu_pod.sh that runs on every worker of a pod.
#
#   tpu_worker.sh setup PYTHON EXTRAS  make the virtual environment, under the
#                                      versions in ~/srdl_constraints.txt, if any
#   tpu_worker.sh versions             a line `srdl-version NAME==VERSION` each
#   tpu_worker.sh start [ARGUMENT...]  start the training, unless it runs
#   tpu_worker.sh state                one line, see below
#   tpu_worker.sh log LINES            the end of the log
#   tpu_worker.sh stop                 let it save and end
#   tpu_worker.sh kill                 end it at once
#
# It lies in ~/srdl/launch. The training writes ~/srdl_run/run.log; `state` says
#
#   srdl-state idle | running | stopped
#   srdl-state ended CODE SECONDS      SECONDS: when, since 1970
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$HOME/srdl_venv
RUN=$HOME/srdl_run

setup() {
  # A pod's image has an older Python than the package needs; uv fetches one.
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  local uv=$HOME/.local/bin/uv pins=$HOME/srdl_constraints.txt
  [[ -s $pins ]] || pins=
  [[ -x $VENV/bin/python ]] || "$uv" venv --quiet --python "$1" "$VENV"
  "$uv" pip install --quiet --python "$VENV/bin/python" \
    ${pins:+--constraint "$pins"} --editable "${ROOT}[$2]"
}

versions() {
  "$HOME/.local/bin/uv" pip freeze --python "$VENV/bin/python" |
    sed -n 's/^[^ ]*==[^ ]*$/srdl-version &/p'
}

start() {
  mkdir -p "$RUN"
  if [[ ! -e $RUN/ended ]] && runs; then
    echo 'The training runs already.'
    return
  fi
  # Held by all that the training starts: free only when all of it has gone,
  # also after the machine has started anew.
  exec 9>"$RUN/lock"
  flock --wait 10 9
  rm -f "$RUN/ended" "$RUN/stop" "$RUN/child"
  setsid bash "${BASH_SOURCE[0]}" supervise "$@" \
    </dev/null >>"$RUN/run.log" 2>&1 &
  echo $! >"$RUN/group"
}

# Runs the training once and writes down how it ended. It leads a process group.
supervise() {
  local code=0
  cd "$ROOT"
  # Else a host whose TPU fails would train on its CPU, without a word.
  export JAX_PLATFORMS=${JAX_PLATFORMS:-tpu,cpu}
  "$VENV/bin/python" -m srdl_jax.main --distributed "$@" &
  echo $! >"$RUN/child"
  wait $! || code=$?
  echo "$code $(date +%s.%N)" >"$RUN/ended.part"
  mv "$RUN/ended.part" "$RUN/ended"
  # Workers that read data may be left, and hold the lock for another moment.
  exec 9>&-
  flock --wait 1 "$RUN/lock" true || true
  kill -KILL -- "-$$"
}

runs() {
  ! flock --nonblock "$RUN/lock" true
}

state() {
  if [[ ! -e $RUN/group ]]; then
    echo 'srdl-state idle'
  elif [[ -e $RUN/stop ]] && { [[ -e $RUN/ended ]] || ! runs; }; then
    echo 'srdl-state stopped'
  elif [[ -e $RUN/ended ]]; then
    echo "srdl-state ended $(<"$RUN/ended")"
  elif runs; then
    echo 'srdl-state running'
  else
    # Killed, or the machine was: as if by SIGKILL, after its last line.
    echo "srdl-state ended 137 $(stat --format=%.9Y "$RUN/run.log")"
  fi
}

log() {
  echo "== $(hostname)"
  tail --lines="$1" "$RUN/run.log" 2>/dev/null || echo 'no log yet'
}

stop() {
  touch "$RUN/stop"
  # Once, and to the training alone: a second SIGTERM would end it unsaved.
  kill -TERM "$(<"$RUN/child")" || echo 'Nothing runs.'
}

end() {
  kill -KILL -- "-$(<"$RUN/group")" || echo 'Nothing runs.'
}

case ${1:-} in
  setup | versions | start | supervise | state | log | stop) "$@" ;;
  kill) end ;;
  *)
    echo "tpu_worker.sh: no command '${1:-}'" >&2
    exit 2
    ;;
esac
