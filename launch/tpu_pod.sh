#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains on a Cloud TPU pod.
#
#   launch/tpu_pod.sh create            ask for a pod and wait until it is there
#   launch/tpu_pod.sh setup             copy this checkout and install it
#   launch/tpu_pod.sh run -- ARGUMENTS  train: the arguments of srdl_jax.main
#   launch/tpu_pod.sh status            the pod's state, each worker's last line
#   launch/tpu_pod.sh logs              the last 100 lines of every worker
#   launch/tpu_pod.sh stop              let the training save and end
#   launch/tpu_pod.sh delete [--yes]    give the pod back; its disks are lost
#
# --dry-run, anywhere before --, prints the commands and runs none. Other flags:
#
# Flag         or variable       default
# --name       TPU_NAME          srdl
# --zone       TPU_ZONE          gcloud's compute/zone
# --project    TPU_PROJECT       gcloud's project
# --type       TPU_TYPE          v4-32
# --version    TPU_VERSION       the image that goes with the type
# --on-demand  TPU_SPOT=0        spot: cheaper, taken away at any time
#              TPU_PYTHON        3.12
#              TPU_EXTRAS        tpu
#              TPU_CREATE_FLAGS  none; more flags of gcloud, split at spaces
#              TPU_SSH_FLAGS     none; the same for ssh and scp: --internal-ip
#              TPU_RESTARTS      20: so often is the training started again
#              TPU_RECREATIONS   20: so often is a new pod asked for
#              TPU_POLL          30 seconds between two looks
#              TPU_MISSES        20: so many looks may a worker miss, one after
#                                the other, before a new pod is asked for
#              TPU_GRACE         120 seconds for all to end after one has
#              TPU_CONSTRAINTS   runs/tpu_NAME.txt: the versions that the first
#                                setup has installed, for each later one
#
# `run` watches. If it is ended, the training goes on, and the same command
# watches it again. When a process is lost the training is started again; when
# the pod is taken away, or a worker of it can't be reached any more, a new one is
# made first. --workdir must be on a shared disk that outlives the pod. Exit codes are those of srdl_jax; 75: the training was
# stopped, or was lost too often.
set -euo pipefail

AGAIN=75 GONE=69
NAME=${TPU_NAME:-srdl}
ZONE=${TPU_ZONE:-}
PROJECT=${TPU_PROJECT:-}
TYPE=${TPU_TYPE:-v4-32}
VERSION=${TPU_VERSION:-}
SPOT=${TPU_SPOT:-1}
POLL=${TPU_POLL:-30}
read -ra SSH_FLAGS <<<"${TPU_SSH_FLAGS:-}"
read -ra CREATE_FLAGS <<<"${TPU_CREATE_FLAGS:-}"
DRY_RUN='' YES=''
# A dry run prints to there, also from within $(...).
exec 3>&1

say() { echo "tpu_pod.sh: $*" >&2; }
fail() { say "$*"; exit 2; }

# Runs a command, or prints it.
perform() {
  if [[ $DRY_RUN ]]; then
    (printf '%q ' "$@" && echo) >&3
  else
    "$@"
  fi
}

pause() { [[ $DRY_RUN ]] || sleep "$POLL"; }

# Runs `gcloud compute tpus GROUP VERB ...` with the flags that all share.
cloud() {
  perform gcloud compute tpus "$@" --quiet ${ZONE:+--zone="$ZONE"} \
    ${PROJECT:+--project="$PROJECT"}
}

# Runs a command on all workers, or on worker $2. A machine that is down would
# hold ssh for minutes. An empty array counts as unset in old versions of bash,
# hence ${A[@]+...}.
on_workers() {
  cloud tpu-vm ssh "$NAME" --worker="${2:-all}" \
    --ssh-flag='-o ConnectTimeout=20' ${SSH_FLAGS[@]+"${SSH_FLAGS[@]}"} \
    --command="$1"
}

# Copies a file to all workers' home directories. scp knows no --ssh-flag.
to_workers() {
  cloud tpu-vm scp "$1" "$NAME:$2" --worker=all \
    ${SSH_FLAGS[@]+"${SSH_FLAGS[@]}"}
}

# Runs tpu_worker.sh with the given arguments on all workers.
worker() {
  local words
  words=$(printf ' %q' "$@")
  on_workers "bash srdl/launch/tpu_worker.sh$words"
}

# Prints the state of the request, NONE without one, UNKNOWN when gcloud fails.
pod_state() {
  local state errors
  errors=$(mktemp)
  if state=$(cloud queued-resources describe "$NAME" \
    --format='value(state.state)' 2>"$errors"); then
    # A dry run goes the way of a pod that is there.
    echo "${state:-ACTIVE}"
  elif grep -q 'NOT_FOUND' "$errors"; then
    echo NONE
  else
    cat "$errors" >&2
    echo UNKNOWN
  fi
  rm -f "$errors"
}

# $1: the state of the request, if it is known.
is_gone() {
  case ${1:-$(pod_state)} in
    NONE | SUSPENDING | SUSPENDED | FAILED) return 0 ;;
  esac
  # The machines may have been taken before the request says so.
  case $(cloud tpu-vm describe "$NAME" --format='value(state)' || true) in
    PREEMPTED | TERMINATED) return 0 ;;
  esac
  return 1
}

image() {
  case $TYPE in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
  esac
}

create() {
  local version=${VERSION:-$(image)} spot=--spot state last=
  [[ $version ]] || fail "the image for $TYPE isn't known: give --version."
  [[ $SPOT != 0 ]] || spot=
  cloud queued-resources create "$NAME" --node-id="$NAME" \
    --accelerator-type="$TYPE" --runtime-version="$version" \
    ${spot:+"$spot"} ${CREATE_FLAGS[@]+"${CREATE_FLAGS[@]}"} || return
  while :; do
    state=$(pod_state)
    [[ $state == "$last" ]] || say "$NAME: $state"
    last=$state
    case $state in
      ACTIVE) return 0 ;;
      NONE | SUSPENDING | SUSPENDED | FAILED) return "$GONE" ;;
    esac
    pause
  done
}

# Writes the checkout to the file $1: what git would not ignore, and its
# history, from which a result's commit is read.
pack() {
  local file history=()
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  [[ ! -d .git ]] || history=(.git)
  git ls-files -z --cached --others --exclude-standard |
    while IFS= read -rd '' file; do
      [[ ! -f $file ]] || printf '%s\0' "$file"
    done | tar --null -czf "$1" ${history[@]+"${history[@]}"} -T -
}

setup() {
  local archive=srdl.tar.gz status=0 root pins
  root=$(dirname "${BASH_SOURCE[0]}")/..
  pins=${TPU_CONSTRAINTS:-$root/runs/tpu_$NAME.txt}
  if [[ $DRY_RUN ]]; then
    echo "# $archive: this checkout"
  else
    archive=$(mktemp)
    (pack "$archive") || return
  fi
  to_workers "$archive" srdl.tar.gz &&
    on_workers 'rm -rf srdl srdl_constraints.txt && mkdir srdl &&
      tar -xzf srdl.tar.gz -C srdl' &&
    constrain "$pins" &&
    worker setup "${TPU_PYTHON:-3.12}" "${TPU_EXTRAS:-tpu}" &&
    keep "$pins" || status=$?
  [[ $DRY_RUN ]] || rm -f "$archive"
  return "$status"
}

# A pod that is made again goes on under the versions that have begun.
constrain() {
  [[ -s $1 ]] || return 0
  say "the versions are those in $1; remove it to have newer ones."
  to_workers "$1" srdl_constraints.txt
}

# Writes down what the first setup has installed.
keep() {
  [[ ! -s $1 && ! $DRY_RUN ]] || return 0
  mkdir -p "$(dirname "$1")"
  on_workers 'bash srdl/launch/tpu_worker.sh versions' 0 |
    awk '$1 == "srdl-version" { print $2 }' >"$1.part"
  mv "$1.part" "$1"
}

# Reads the workers' states. Prints unknown, running, ending (one has failed),
# stopped, or a code: a known error's, or the first failure's, as the others may
# stem from it.
verdict() {
  awk '
    $1 != "srdl-state" { next }
    { count[$2]++; workers++ }
    $2 == "ended" && $3 {
      if ($3 >= 2 && $3 <= 5) known = $3
      if (!cause || $4 < when) { cause = $3; when = $4 }
    }
    END {
      if (!workers) print "unknown"
      else if (count["running"] && !cause && !count["idle"]) print "running"
      else if (count["running"]) print "ending"
      else if (known) print known
      else if (count["stopped"]) print "stopped"
      else if (count["idle"]) print 137
      else print cause + 0
    }'
}

# After a look that not all workers answered. Returns GONE if the pod is, or if
# one has been silent for too long; what gcloud itself can't tell isn't counted.
miss() {
  local state
  state=$(pod_state)
  ! is_gone "$state" || return "$GONE"
  [[ $state == UNKNOWN ]] || missed=$((missed + 1))
  say "not all workers answer ($missed of ${TPU_MISSES:-20})."
  ((missed < ${TPU_MISSES:-20})) || return "$GONE"
  pause
}

# Starts the training, or finds it running, and watches it to its end. Returns
# its exit code, AGAIN or GONE.
attempt() {
  local states found whole missed=0 refused=0 since=
  until worker start "$@"; do
    if states=$(on_workers '[[ -e srdl/launch ]] || echo srdl-missing'); then
      # All answer: what fails three times fails of itself.
      [[ $states != *srdl-missing* ]] || refused=3
      if ((++refused > 3)); then
        say 'the training could not be started, see above. Has setup been run?'
        return 1
      fi
      pause
    else
      miss || return
    fi
  done
  missed=0
  pause
  while :; do
    whole=1
    states=$(worker state) || whole=
    [[ ! $DRY_RUN ]] || return 0
    found=$(verdict <<<"$states")
    # Of some alone, only a known error is one of the training.
    [[ $whole || $found == [2-5] ]] || found=unknown
    case $found in
      unknown)
        miss || return
        continue
        ;;
      running) ;;
      ending)
        since=${since:-$SECONDS}
        ((SECONDS - since <= ${TPU_GRACE:-120})) || worker kill || true
        ;;
      stopped)
        say 'the training was stopped; all is saved.'
        trap - EXIT
        exit "$AGAIN"
        ;;
      75 | 134 | 137 | 139 | 143) return "$AGAIN" ;;
      *) return "$found" ;;
    esac
    missed=0
    pause
  done
}

recreate() {
  cloud queued-resources delete "$NAME" --force || true
  pause
  create && setup
}

run() {
  local code restarts=0 recreations=0
  [[ $(pod_state) != NONE ]] || fail "there is no pod $NAME: create it first."
  trap 'say "the training goes on; the same command watches it again."' EXIT
  while :; do
    code=0
    attempt "$@" || code=$?
    while ((code == GONE && recreations++ < ${TPU_RECREATIONS:-20})); do
      say "$NAME is gone; a new one is made ($recreations)."
      code=0
      recreate || code=$?
      ((code == 0)) || ! is_gone || code=$GONE
      ((code)) || attempt "$@" || code=$?
    done
    ((code == AGAIN && restarts++ < ${TPU_RESTARTS:-20})) || break
    say "the training is started again ($restarts)."
  done
  trap - EXIT
  if [[ $DRY_RUN ]]; then
    echo '# After a preemption, and then as above:'
    recreate
  fi
  ((code != GONE)) || code=$AGAIN
  return "$code"
}

status() {
  say "$NAME: $(pod_state)"
  worker state
  worker log 1
}

delete() {
  if [[ -z $YES && -z $DRY_RUN ]]; then
    read -rp "Delete $NAME and its disks? [y/N] " answer || true
    [[ ${answer:-} == [yY]* ]] || fail 'nothing was deleted.'
  fi
  cloud queued-resources delete "$NAME" --force
}

main() {
  local command=
  while (($#)); do
    case $1 in
      --name=*) NAME=${1#*=} ;;
      --zone=*) ZONE=${1#*=} ;;
      --project=*) PROJECT=${1#*=} ;;
      --type=*) TYPE=${1#*=} ;;
      --version=*) VERSION=${1#*=} ;;
      --on-demand) SPOT=0 ;;
      --dry-run) DRY_RUN=1 ;;
      --yes) YES=1 ;;
      --) shift && break ;;
      -* | *=*) fail "no flag '$1'; the training's go behind --." ;;
      *) command+=$1 ;;
    esac
    shift
  done
  case $command in
    create | setup | status | delete) "$command" ;;
    run) run "$@" ;;
    logs) worker log 100 ;;
    stop) worker stop ;;
    *) fail "no command '$command'; the top of this file lists them." ;;
  esac
}

main "$@"
