#!/usr/bin/env bash
# What a byte is worth: trains with the entropy codec at every lambda, and with float32, float16 and int8, each with every
# seed, one run after the other in one process each; then prints the table and draws the curve.
#   jobs/rate_return.sh configs/3m.yaml "1 2 3" "1e-3 1e-2 1e-1" train.steps=2000000
# Further keys are for all runs alike.

set -euo pipefail
config=${1-}
read -ra seeds <<< "${2-}"
read -ra lambdas <<< "${3-}"
((${#seeds[@]} && ${#lambdas[@]})) || {
    echo 'usage: jobs/rate_return.sh CONFIG.yaml "SEED ..." "LAMBDA ..." [key=value ...]' >&2
    exit 2
}
shift 3

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ ! -e $here/.venv ]] || source "$here/.venv/bin/activate"
mkdir -p results
folder=$(mktemp -d "results/rate-$(date +%Y%m%d-%H%M%S)-XXX")
settings=("${lambdas[@]/#/codec.name=entropy codec.rate_coef=}" codec.name={float32,float16,int8})
for seed in "${seeds[@]}"; do
    for setting in "${settings[@]}"; do
        echo "== $setting, seed $seed"
        read -ra keys <<< "$setting"
        python -m sde_harl.run "$config" "$@" "${keys[@]}" seed="$seed" record.dir="$folder"
    done
done
find "$folder" -name run.h5 -exec python "$here/analysis/rate_return.py" --plot "$folder/rate_return.png" {} +
echo "$folder/rate_return.png"
