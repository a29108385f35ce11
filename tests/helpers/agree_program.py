"""Plays two rollouts with learning between them and prints what must agree between placements.

Tests start it alone or under mpirun, with arguments as for sde_harl.run. Rank 0 prints one line of
JSON: hashes of the latents, actions, rewards and log-probabilities.
"""

from __future__ import annotations

import hashlib
import json
import sys

from sde_harl.config.arguments import parse
from sde_harl.executor.in_process import loopback
from sde_harl.link.mpi import join, launched_ranks
from sde_harl.run import dismiss, run_executor
from sde_harl.training.build import build
from sde_harl.training.trainer import Trainer


def main() -> int:
    rank, size = launched_ranks()
    if rank:
        return run_executor(sys.argv[1:])
    transport = join() if size > 1 else loopback()
    config = parse(sys.argv[1:]).config
    assert config is not None
    learner = Trainer(build(config, transport))
    learner.publish()
    prints = []
    for _ in range(2):
        learner.update()
        rollout = learner.collector.rollout
        arrays = (rollout.latents, rollout.actions, rollout.rewards, rollout.log_probs)
        prints.append([hashlib.sha256(each.tobytes()).hexdigest() for each in arrays])
    learner.logger.close()
    print(
        json.dumps(
            {
                "executors": len(learner.pool.hosts),
                "prints": prints,
                "folder": str(learner.logger.folder),
            }
        )
    )
    dismiss(transport, "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
