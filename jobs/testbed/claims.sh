#!/usr/bin/env bash
# The paper's claims on the emulated prototype: the split policy as SDE-HARL sends it, with float32 latents, all on the
# server, all on the devices; every one in turn, twice, in one session. Ends with their table. Needs root.
#   jobs/testbed/claims.sh [CHECKPOINT.pt [LINK [FIGURE=VALUE ...]]]
# The checkpoint is of configs/prototype.yaml; without one, it trains it first, in minutes. The link is wifi5-20mhz.

set -euo pipefail
checkpoint=$([[ ! ${1-} ]] || realpath "$1")
links=("${@:2}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck disable=SC1091  # make venv makes it
[[ ! -e .venv ]] || source .venv/bin/activate
testbed=(python jobs/testbed/testbed.py)
"${testbed[@]}" check
mkdir -p results
folder=$(mktemp -d "$PWD/results/claims-$(date +%Y%m%d-%H%M%S)-XXX")

# What a coded latent weighs depends on what was learnt; of the others, nothing that is measured here does.
if [[ ! $checkpoint ]]; then
    python -m sde_harl.run configs/prototype.yaml placement.mode=local train.steps=100000 train.envs=64 train.slots=2 \
        eval.interval=0 record.dir="$folder/training"
    checkpoint=$(find "$folder/training" -name last.pt)
fi

"${testbed[@]}" up 8 --link "${links[@]:-wifi5-20mhz}" --device raspberry-pi-5
trap '"${testbed[@]}" down' EXIT
measure() {
    echo "== $*"
    # Without a pipe, and by timeout: a launch that failed may ignore all but SIGKILL.
    timeout -s KILL 900 "${testbed[@]}" exec server mpirun --hostfile "${SDE_TESTBED:-/run/sde-testbed}/hostfile" \
        -np 9 ${PYTHONPATH:+-x PYTHONPATH} "$(command -v python)" -m sde_harl.run configs/prototype.yaml \
        record.dir="$folder/measured" "$@" < /dev/null
}
for _ in 1 2; do
    measure train.load="$checkpoint"
    measure codec.name=float32
    measure policy.local_blocks=0 codec.name=float32
    measure policy.local_blocks=10 codec.name=none
done
find "$folder/measured" -name run.h5 -exec python analysis/prototype.py --plot "$folder/prototype.png" {} +
