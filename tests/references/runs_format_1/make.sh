#!/usr/bin/env bash
# Makes the two run directories beside it with version 0.1.0 of the program,
# whose files are of format 1:
#
#     git worktree add OLD d3d25f0
#     bash tests/references/runs_format_1/make.sh OLD
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$1"
rm -rf "$here/finished" "$here/half_done"
fields=(seed=3 distillation.temperature=2.0 optimiser.weight_decay=0.0005
  data.holdout=100 log.tensorboard=false)
export PYTHONPATH=.:tests JAX_PLATFORMS=cpu
python tests/tiny.py "$here/finished" none checkpoint.every_steps=0 "${fields[@]}"
# Killed in stage two, within an epoch, between two checkpoints.
if python tests/tiny.py "$here/half_done" kill:18 "${fields[@]}"; then
  echo "it was not killed" >&2
  exit 1
fi
# Names of the machine and its folders, which nothing reads.
rm "$here"/*/.lock
find "$here" -name commit_success.txt -exec sed -i "s|$here|RUNS|g" {} +
