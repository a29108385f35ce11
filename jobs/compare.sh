#!/usr/bin/env bash
# HAPPO against its rivals MAPPO and IPPO: trains each with every seed, one run after the other, then prints the table.
#   jobs/compare.sh configs/mpe_spread.yaml "1 2 3" train.steps=1000000
# Further keys are for all runs alike. What the algorithms differ in comes from sde_harl/config/presets/algorithms.
# ALGOS names others, off-policy ones too:  ALGOS="happo hasac" jobs/compare.sh configs/mpe_spread.yaml "1 2 3"

set -euo pipefail
config=${1-}
read -ra seeds <<< "${2-}"
((${#seeds[@]})) || { echo 'usage: jobs/compare.sh CONFIG.yaml "SEED ..." [key=value ...]' >&2; exit 2; }
shift 2

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ ! -e $here/.venv ]] || source "$here/.venv/bin/activate"
mkdir -p results
folder=$(mktemp -d "results/compare-$(date +%Y%m%d-%H%M%S)-XXX")
for seed in "${seeds[@]}"; do
    for algo in ${ALGOS:-happo mappo ippo}; do
        echo "== $algo, seed $seed"
        python -m sde_harl.run "$config" "$@" algo.name="$algo" seed="$seed" record.dir="$folder"
    done
done
find "$folder" -name run.h5 -exec python "$here/analysis/compare.py" {} +
