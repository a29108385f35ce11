"""Writes down what happens in a run, as rows of run.h5 and as metrics.

columns.py, usage.py and summary.py make the columns; the room record/ knows how rows are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sde_harl.codec.symbols import SymbolCounts
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.registry import ChosenBackend
from sde_harl.errors import UserError
from sde_harl.policy.shapes import local_shape
from sde_harl.protocol.hello import describe_host
from sde_harl.protocol.resources import Resources
from sde_harl.record.metrics import NOTHING, Metrics, Past
from sde_harl.record.metrics_port import MetricsPort
from sde_harl.record.segments import checked_counts, following, next_segment
from sde_harl.record.writer import RunFile
from sde_harl.roles.grouping import Roles
from sde_harl.server.decision_log import Decisions
from sde_harl.server.executor_pool import ExecutorPool
from sde_harl.training.columns import (
    decision_columns,
    embedding_columns,
    episode_columns,
    evaluation_columns,
    symbol_columns,
)
from sde_harl.training.episodes import Episodes
from sde_harl.training.resuming import Resumed
from sde_harl.training.run_folder import make_folder
from sde_harl.training.run_metadata import run_metadata
from sde_harl.training.summary import result_line, summarise_episodes, summarise_link
from sde_harl.training.usage import ServerUsage, by_rank

FLOAT32_BYTES = 4


class RunLogger:
    """Writes the record of one run; each kind of event has a method."""

    def __init__(
        self,
        *,
        config: Config,
        spec: EnvSpec,
        pool: ExecutorPool,
        backend: ChosenBackend,
        roles: Roles,
        resumed: Resumed | None,
    ) -> None:
        """Makes the run's folder and the files in it. Raises UserError where they can't be made."""
        self._usage = ServerUsage(config.meters.idle_s)
        self._config = config
        self._pool = pool
        self._lost: str | None = None
        self.folder = resumed.folder if resumed else make_folder(config, spec)
        meta = run_metadata(
            config=config,
            spec=spec,
            pool=pool,
            server=describe_host(self._usage.energy)._asdict(),
            backend=backend,
            roles=roles,
        )
        past = _past(resumed)
        segment = next_segment(self.folder)
        self._following = following(segment)
        self._file = RunFile(
            segment,
            meta,
            config.record.on_disk_full,
            rows_before=past.rows,
        )
        self._metrics = Metrics(
            self.folder,
            tensorboard=config.record.tensorboard,
            total_steps=config.train.planned_steps,
            port=_open_port(config, spec),
            past=past.shown,
        )
        # Attributes, because methods of these names would only pass their arguments on.
        self.trajectory = self._file.trajectory
        self.note = self._metrics.note
        self._wait_until_flushed: Callable[[], None] | None = None
        shape = local_shape(agents=tuple(range(len(spec.agents))), spec=spec, policy=config.policy)
        self._latent_sizes = np.array(shape.latent_sizes())
        self._result = ""
        if not resumed:
            self._roles(roles)

    @property
    def incomplete(self) -> str | None:
        """Says what of the record is missing; None while nothing is."""
        return self._lost or self._file.failed or self._metrics.failed

    @property
    def is_superseded(self) -> bool:
        """True once another process goes on with this run: a cluster that has lost sight of a host
        starts its jobs elsewhere, while they may go on there."""
        return self._following.exists()

    def state_dict(self) -> dict[str, Any]:
        """Returns how far the files are, for a run that goes on from here."""
        return {"rows": self._file.rows(), "shown": self._metrics.state_dict()}

    def flush(self) -> None:
        """Waits until everything recorded is on the disk."""
        self._file.flush()()

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
        self._check_folder()
        if not self._config.eval.episodes:
            self._result = f"in training: {self._result_line(row, decisions)}"
        self._file.add("training", step=step, **row)
        self._metrics.log(step, row)

    def evaluation(
        self,
        step: int,
        *,
        episodes: Episodes,
        decisions: Decisions,
        symbols: SymbolCounts | None,
    ) -> None:
        """Writes an evaluation's greedy episodes, their means, and what symbols were sent."""
        means = summarise_episodes(episodes)
        link = summarise_link(decisions, self._latent_sizes)
        self._result = f"result: {self._result_line(means | link, decisions)}"
        self._episodes(step, episodes, train=False)
        self._file.add("evaluations", step=step, **evaluation_columns(episodes, means, link))
        if symbols:
            columns = symbol_columns(symbols)
            self._file.add("symbols", step=np.full(symbols.sent.size, step), **columns)
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
            self._file.add(
                "decisions",
                **decision_columns(decisions, self._pool, envs=self._config.train.envs),
                train=np.full(decisions.payload_bytes.size, train),
            )
        self._usage_of_all(step, resources)
        for fault in self._pool.faults():
            self._file.add(
                "faults", step=step, rank=fault.rank, agent=fault.agent, kind=fault.reason
            )

    def tell_result(self) -> None:
        """Says what the run has come to; nothing where that is not known."""
        if self._result:
            self.note(self._result)

    def close(self) -> None:
        """Writes what is left and closes all files."""
        self._file.close()
        self._metrics.close()

    def _check_folder(self) -> None:
        """Notices that the run's folder was removed, which no write to its open files tells.

        Raises UserError where the configuration ends a run that can't be recorded, and where the
        run is another process's by now.
        """
        if self.is_superseded:
            raise UserError(f"{self._following}: another process goes on with this run; this ends")
        if self._lost or self.folder.exists():
            return
        self._lost = f"{self.folder}: was removed while the run went on"
        if self._config.record.on_disk_full == "stop":
            raise UserError(self._lost)
        self.note(f"{self._lost}; what is recorded from here on is lost")

    def _result_line(self, means: Mapping[str, float], decisions: Decisions) -> str:
        float32_bytes = 0.0
        if self._config.codec.name not in ("none", "float32"):
            float32_bytes = FLOAT32_BYTES * float(self._latent_sizes.mean())
        return result_line(means, decisions, float32_bytes)

    def _roles(self, roles: Roles) -> None:
        """Writes what role groups were learnt from, where they were."""
        for score in roles.scores:
            self._file.add("role_scores", groups=score.groups, index=score.davies_bouldin)
        if roles.embedding:
            self._file.add("roles", **embedding_columns(roles.embedding))

    def _episodes(self, step: int, episodes: Episodes, *, train: bool) -> None:
        config = self._config.train
        count = len(episodes.length)
        self._file.add(
            "episodes",
            **episode_columns(episodes, slot_envs=config.envs // config.slots),
            step=np.full(count, step),
            train=np.full(count, train),
            policy_version=np.full(count, self._pool.version),
        )

    def _usage_of_all(self, step: int, resources: Mapping[int, Resources]) -> None:
        """Writes a row for rank 0 and for each executor that has answered."""
        ranks = [0, *resources]
        steps = np.full(len(ranks), step)
        # One time for all rows: an executor's clock can't be compared with this one.
        times = np.full(len(ranks), self._usage.seconds())
        used = by_rank(self._usage.resources(), resources)
        carried = by_rank(self._usage.traffic(self._pool.traffic()), resources)
        self._file.add("resources", rank=ranks, step=steps, time_s=times, **used)
        self._file.add("traffic", rank=ranks, step=steps, **carried)


class _Past(NamedTuple):
    """How far the files of a resumed run are."""

    rows: dict[str, int]
    shown: Past


def _past(resumed: Resumed | None) -> _Past:
    """Returns how far the files were at the checkpoint. Raises UserError where it doesn't tell."""
    if resumed is None:
        return _Past(rows={}, shown=NOTHING)
    state = resumed.checkpoint.nested("record")
    try:
        rows = checked_counts(state["rows"])
        shown = Past(
            rows=int(state["shown"]["rows"]),
            seconds=float(state["shown"]["seconds"]),
            steps=resumed.steps,
        )
    except (KeyError, TypeError, ValueError) as error:
        path = resumed.checkpoint.path
        raise UserError(f"{path}: not a checkpoint of a run: its record: {error}") from error
    return _Past(rows=rows, shown=shown)


def _open_port(config: Config, spec: EnvSpec) -> MetricsPort | None:
    """Opens the port of the scalars, where there is to be one. Raises UserError if it is taken."""
    if not config.record.metrics_port:
        return None
    labels = {"env": spec.name, "algo": config.algo.name, "exp": config.record.exp}
    return MetricsPort(config.record.metrics_port, {**labels, "seed": str(config.seed)})
