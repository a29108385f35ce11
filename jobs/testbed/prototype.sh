#!/usr/bin/env bash
# The main job on an emulated prototype: a server and eight boards on one Wi-Fi cell. Trains, then prints what it cost and
# what the interfaces counted. Needs root; keys are for the run.
#   jobs/testbed/prototype.sh train.steps=20000

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck disable=SC1091  # make venv makes it
[[ ! -e .venv ]] || source .venv/bin/activate
testbed=(python jobs/testbed/testbed.py)

"${testbed[@]}" up 8 --link wifi5-20mhz --device raspberry-pi-5
trap '"${testbed[@]}" down' EXIT
mkdir -p results
folder=$(mktemp -d "results/prototype-$(date +%Y%m%d-%H%M%S)-XXX")
# By timeout and not through a pipe: a launch that failed may ignore all but SIGKILL.
timeout -s KILL 3600 "${testbed[@]}" exec server mpirun --hostfile "${SDE_TESTBED:-/run/sde-testbed}/hostfile" -np 9 \
    ${PYTHONPATH:+-x PYTHONPATH} "$(command -v python)" -m sde_harl.run configs/smac.yaml train.steps=20000 \
    record.dir="$folder" "$@" < /dev/null
find "$folder" -name run.h5 -exec python analysis/resource_consumption.py {} +
