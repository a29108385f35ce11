#!/usr/bin/env bash
# Does training for a bad link pay? Trains with and without the emulated link LINK, every seed, one run after the other;
# then plays each policy greedily on every link, and prints the table: a line an experiment, trained-WITH-on-LINK.
#   jobs/links.sh configs/3m.yaml "1 2 3" train.steps=5000000
# Further keys are for all runs alike. LINK=poor takes another link than lossy; the deadline is 20 ms.

set -euo pipefail
config=${1-}
read -ra seeds <<< "${2-}"
((${#seeds[@]})) || { echo 'usage: jobs/links.sh CONFIG.yaml "SEED ..." [key=value ...]' >&2; exit 2; }
shift 2

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ ! -e $here/.venv ]] || source "$here/.venv/bin/activate"
mkdir -p results
folder=$(mktemp -d "results/links-$(date +%Y%m%d-%H%M%S)-XXX")
keys=(link.deadline_ms=20 placement.mode=local "$@")
for seed in "${seeds[@]}"; do
    for trained in none "${LINK:-lossy}"; do
        echo "== trained with link.model=$trained, seed $seed"
        own=$folder/trained/$trained-$seed
        python -m sde_harl.run "$config" "${keys[@]}" link.model="$trained" seed="$seed" record.dir="$own"
        policy=$(find "$own" -name last.pt)
        for played in none good lossy poor; do
            python -m sde_harl.run "$config" "${keys[@]}" train.load="$policy" train.steps=0 link.model="$played" \
                seed="$seed" record.dir="$folder/played" record.exp="trained-$trained-on-$played"
        done
    done
done
find "$folder/played" -name run.h5 -exec python "$here/analysis/learning_curve.py" {} +
