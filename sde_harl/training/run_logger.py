"""Writes down what happens in a run, as rows of run.h5 and as metrics.

This module knows what a row means; the room record/ knows how rows are stored.

N agents, K decisions of a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from sde_harl.config.layers import to_yaml
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.specs import to_json
from sde_harl.executor.executor import hello
from sde_harl.link.wire import Resources
from sde_harl.policy.shapes import local_shape
from sde_harl.record.folder import make_run_folder
from sde_harl.record.metrics import Metrics
from sde_harl.record.writer import RunFile
from sde_harl.roles.grouping import Roles
from sde_harl.roles.identity import Embedding
from sde_harl.server.decision_log import Decisions
from sde_harl.server.executor_pool import ExecutorPool
from sde_harl.training.episodes import Episodes
from sde_harl.training.run_metadata import run_metadata
from sde_harl.training.summary import summarise_episodes, summarise_link
from sde_harl.training.usage import ServerUsage, by_rank


class RunLogger:
    """The record of one run. Whoever makes something happen calls its method."""

    def __init__(
        self, *, config: Config, spec: EnvSpec, pool: ExecutorPool, backend: str, roles: Roles
    ) -> None:
        """Makes the run's folder and the files in it. Raises UserError where they can't be made."""
        self._usage = ServerUsage(config.meters.idle_s)
        self._config = config
        self._pool = pool
        self.folder = _make_folder(config, spec)
        meta = run_metadata(
            config=config,
            spec=spec,
            pool=pool,
            server=hello(self._usage.energy),
            backend=backend,
            roles=roles,
        )
        self._file = RunFile(self.folder / "run.h5", meta, config.record.on_disk_full)
        self._metrics = Metrics(
            self.folder,
            tensorboard=config.record.tensorboard,
            total_steps=config.train.steps,
        )
        self.trajectory = self._file.trajectory
        self.note = self._metrics.note
        self._wait_until_flushed: Callable[[], None] | None = None
        shape = local_shape(agents=tuple(range(len(spec.agents))), spec=spec, policy=config.policy)
        self._latent_sizes = np.array(shape.latent_sizes())
        self._roles(roles)

    def ended(self, step: int, episodes: Episodes) -> None:
        """Writes episodes of training as they end, so that a kill loses no finished episode."""
        # The disk writes while the environments step: only the flush before this one is waited
        # for, so that a kill loses at most the episodes that end now.
        if self._wait_until_flushed:
            self._wait_until_flushed()
        self._episodes(step, episodes, train=True)
        self._wait_until_flushed = self._file.flush()

    def update(
        self,
        step: int,
        *,
        episodes: Episodes,
        decisions: Decisions,
        scalars: Mapping[str, float],
    ) -> None:
        """Writes what one rollout brought and the scalars of the update that learnt from it."""
        row = {
            **scalars,
            **summarise_episodes(episodes),
            **summarise_link(decisions, self._latent_sizes),
        }
        self._file.add("training", step=step, **row)
        self._metrics.log(step, row)

    def evaluation(self, step: int, *, episodes: Episodes, decisions: Decisions) -> None:
        """Writes an evaluation's greedy episodes and their means."""
        means = summarise_episodes(episodes)
        link = summarise_link(decisions, self._latent_sizes)
        self._episodes(step, episodes, train=False)
        self._file.add(
            "evaluations",
            step=step,
            episodes=len(episodes.length),
            win_rate=means["win_rate"],
            return_mean=means["return"],
            return_std=float(episodes.returns.std()),
            length_mean=means["length"],
            bits_per_element=link["bits_per_element"],
            bytes_per_decision=link["bytes_per_decision"],
            missed=link["link/missed"],
            idle=link["link/idle"],
            fallback=link["link/fallback"],
        )
        self._metrics.log(step, {f"eval/{name}": value for name, value in (means | link).items()})

    def cost(
        self,
        step: int,
        *,
        decisions: Decisions,
        resources: Mapping[int, Resources],
        train: bool,
    ) -> None:
        """Writes what was sent, what every rank has used so far, and which messages were refused.

        resources: by rank, of the executors that have answered.
        """
        if self._config.record.decisions and len(decisions.step):
            self._decisions(decisions, train)
        ranks = [0, *resources]
        steps = np.full(len(ranks), step)
        self._file.add(
            "resources",
            rank=ranks,
            step=steps,
            time_s=np.full(len(ranks), self._usage.seconds()),
            **by_rank(self._usage.resources(), resources),
        )
        self._file.add(
            "traffic",
            rank=ranks,
            step=steps,
            **by_rank(self._usage.traffic(self._pool.traffic()), resources),
        )
        for fault in self._pool.faults():
            self._file.add(
                "faults", step=step, rank=fault.rank, agent=fault.agent, kind=fault.reason
            )

    def close(self) -> None:
        """Writes what is left and closes all files."""
        self._file.close()
        self._metrics.close()

    def _roles(self, roles: Roles) -> None:
        """Writes what role groups were learnt from, where they were."""
        for score in roles.scores:
            self._file.add("role_scores", groups=score.groups, index=score.davies_bouldin)
        if roles.embedding:
            self._file.add("roles", **_embedding_columns(roles.embedding))

    def _episodes(self, step: int, episodes: Episodes, *, train: bool) -> None:
        config = self._config.train
        count = len(episodes.length)
        # `return` can't be written as a keyword.
        columns = {"return": episodes.returns}
        self._file.add(
            "episodes",
            step=np.full(count, step),
            slot=episodes.environment // (config.envs // config.slots),
            env=episodes.environment,
            train=np.full(count, train),
            seed=episodes.seed,
            length=episodes.length,
            won=episodes.won,
            policy_version=np.full(count, self._pool.version),
            **columns,
        )

    def _decisions(self, decisions: Decisions, train: bool) -> None:
        """Writes K N rows: those of a decision together, agent by agent."""
        count, agents = decisions.payload_bytes.shape

        def for_each_agent(column: np.ndarray) -> np.ndarray:
            return np.repeat(column, agents)

        # A header comes with each answer, late ones among them, whose bytes are counted here too.
        wire_bytes = decisions.payload_bytes + self._pool.overhead * decisions.answers
        device_ns = decisions.device_ns.reshape(-1, 3)
        self._file.add(
            "decisions",
            # A decision has its environments' step; tables count the steps of all environments.
            step=for_each_agent(decisions.step * self._config.train.envs),
            agent=np.tile(np.arange(agents), count),
            train=np.full(count * agents, train),
            rank=np.tile(self._pool.rank_of, count),
            environments=for_each_agent(decisions.environments),
            payload_bytes=decisions.payload_bytes.ravel(),
            wire_bytes=wire_bytes.ravel(),
            ideal_bits=decisions.ideal_bits.ravel(),
            version=for_each_agent(decisions.version),
            t_local=device_ns[:, 0],
            t_encode=device_ns[:, 1],
            t_round_trip=device_ns[:, 2],
            t_decode=decisions.decode_ns.ravel(),
            t_policy=for_each_agent(decisions.policy_ns),
            t_decision=for_each_agent(decisions.decision_ns),
            latent_age=decisions.age.ravel(),
            deadline_missed=decisions.missed.ravel(),
            idle=decisions.idle.ravel(),
            fallback=decisions.fallback.ravel(),
            late=decisions.late.ravel(),
        )


def _make_folder(config: Config, spec: EnvSpec) -> Path:
    """Returns the run's new folder, with what is known of the run before it begins."""
    env, task = spec.name.split("/", 1)
    folder = make_run_folder(
        Path(config.record.dir),
        env=env,
        task=task,
        algo=config.algo.name,
        exp=config.record.exp,
        seed=config.seed,
    )
    (folder / "models").mkdir()
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "spec.json").write_text(to_json(spec) + "\n")
    return folder


def _embedding_columns(embedding: Embedding) -> dict[str, np.ndarray]:
    """Returns the columns of /roles: a row for each half of each agent's random play."""
    agents, halves, numbers = embedding.mu.shape
    columns = {
        "agent": np.arange(agents).repeat(halves),
        "half": np.tile(np.arange(halves), agents),
    }
    for name, values in embedding._asdict().items():
        flat = values.reshape(-1, numbers)
        columns |= {f"{name}_{k}": flat[:, k] for k in range(numbers)}
    return columns
