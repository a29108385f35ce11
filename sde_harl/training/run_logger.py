"""What a run writes down: run.h5, its metrics, its configuration. Knows what a row means, not how it is stored."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from sde_harl.config.layers import to_yaml
from sde_harl.config.schema import Config, LinkProfile
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.specs import to_json
from sde_harl.executor.executor import hello
from sde_harl.link.transport import Traffic
from sde_harl.link.wire import Resources
from sde_harl.meters.energy import Energy
from sde_harl.meters.network import Carried, Network
from sde_harl.meters.process import Process
from sde_harl.meters.timing import now_ns
from sde_harl.policy.shapes import local_shape
from sde_harl.record.folder import make_run_folder
from sde_harl.record.metrics import Metrics
from sde_harl.record.writer import RunFile
from sde_harl.roles.grouping import Roles
from sde_harl.server.decision_log import Decisions
from sde_harl.server.executor_pool import ExecutorPool
from sde_harl.training.collector import Episodes

EMULATED = "SDE_HARL_EMULATED"
"""Set where links or devices are emulated, to what they are meant to be: the record of such a run says so."""

USAGE = (
    "cpu_s",
    "rss_bytes",
    "peak_rss_bytes",
    "joules",
    "gpu_joules",
    "idle_w",
    "gpu_idle_w",
    "alone",
)
"""What a rank uses, as columns of /resources and fields of `Resources`."""


class RunLogger:
    """The record of one run, told of everything that happens in it."""

    def __init__(
        self, config: Config, spec: EnvSpec, pool: ExecutorPool, backend: str, roles: Roles
    ) -> None:
        """Makes the run's folder, so last of all: a run that can't start shall leave none behind."""
        self._energy = Energy()
        self._idle_watts = self._energy.idle_watts(config.meters.idle_s)
        self._config, self._spec, self._pool = config, spec, pool
        env, task = spec.name.split("/", 1)
        self.folder = make_run_folder(
            Path(config.record.dir),
            env=env,
            task=task,
            algo=config.algo.name,
            exp=config.record.exp,
            seed=config.seed,
        )
        (self.folder / "models").mkdir()
        (self.folder / "config.yaml").write_text(to_yaml(config))
        (self.folder / "spec.json").write_text(to_json(spec) + "\n")
        meta = _meta(config, spec, pool, hello(self._energy), backend, roles)
        self._file = RunFile(self.folder / "run.h5", meta, config.record.on_disk_full)
        self._written: Callable[[], None] = lambda: None
        self._metrics = Metrics(
            self.folder,
            tensorboard=config.record.tensorboard,
            total_steps=config.train.steps,
        )
        self._process, self._network, self._started = Process(), Network(), now_ns()
        self._latents = np.array(
            local_shape(
                agents=tuple(range(len(spec.agents))), spec=spec, policy=config.policy
            ).latent_sizes()
        )
        self.note, self.trajectory = self._metrics.note, self._file.trajectory
        self._roles(roles)

    def _roles(self, roles: Roles) -> None:
        """What role groups were learnt from."""
        for score in roles.scores:
            self._file.add("role_scores", groups=score.groups, index=score.davies_bouldin)
        if roles.embedding:
            agents, halves, numbers = roles.embedding.mu.shape
            flat = {
                name: each.reshape(-1, numbers) for name, each in roles.embedding._asdict().items()
            }
            columns = {
                f"{name}_{k}": each[:, k] for name, each in flat.items() for k in range(numbers)
            }
            half = np.tile(np.arange(halves), agents)
            self._file.add("roles", agent=np.arange(agents).repeat(halves), half=half, **columns)

    def ended(self, step: int, episodes: Episodes) -> None:
        """Episodes of training, as they end: once they are on disk no kill loses them."""
        self._written()  # what ended before, so that a kill loses no more than what ends now
        self._episodes(step, episodes, train=True)
        self._written = self._file.flush()

    def update(
        self, step: int, episodes: Episodes, decisions: Decisions, scalars: Mapping[str, float]
    ) -> None:
        """What one rollout brought, and what was learnt from it."""
        row = {**scalars, **_summary(episodes), **_traffic(decisions, self._latents)}
        self._file.add("training", step=step, **row)
        self._metrics.log(step, row)

    def evaluation(self, step: int, episodes: Episodes, decisions: Decisions) -> None:
        """Greedy episodes."""
        scalars = _summary(episodes) | _traffic(decisions, self._latents)
        self._episodes(step, episodes, train=False)
        self._file.add(
            "evaluations",
            step=step,
            episodes=len(episodes.length),
            win_rate=scalars["win_rate"],
            return_mean=scalars["return"],
            return_std=float(episodes.returns.std()),
            length_mean=scalars["length"],
            bits_per_element=scalars["bits_per_element"],
            bytes_per_decision=scalars["bytes_per_decision"],
            missed=scalars["link/missed"],
            idle=scalars["link/idle"],
            fallback=scalars["link/fallback"],
        )
        self._metrics.log(step, {f"eval/{key}": value for key, value in scalars.items()})

    def cost(
        self, step: int, decisions: Decisions, resources: Mapping[int, Resources], train: bool
    ) -> None:
        """What was sent, what every rank has used so far, and what was refused."""
        self._decisions(decisions, train)
        self._resources(step, resources)
        self._carried(step, resources)
        for fault in self._pool.faults():
            self._file.add(
                "faults", step=step, rank=fault.rank, agent=fault.agent, kind=fault.reason
            )

    def close(self) -> None:
        self._file.close()
        self._metrics.close()

    def _episodes(self, step: int, episodes: Episodes, train: bool) -> None:
        count = len(episodes.length)
        self._file.add(
            "episodes",
            step=np.full(count, step),
            slot=episodes.environment // (self._config.train.envs // self._config.train.slots),
            env=episodes.environment,
            train=np.full(count, train),
            seed=episodes.seed,
            length=episodes.length,
            won=episodes.won,
            policy_version=np.full(count, self._pool.version),
            **{"return": episodes.returns},
        )

    def _decisions(self, decisions: Decisions, train: bool) -> None:
        count, agents = decisions.payload_bytes.shape
        if self._config.record.decisions and count:
            per_agent = lambda column: np.repeat(column, agents)  # noqa: E731
            device = decisions.device_ns.reshape(-1, 3)
            self._file.add(
                "decisions",
                step=per_agent(decisions.step * self._config.train.envs),
                agent=np.tile(np.arange(agents), count),
                train=np.full(count * agents, train),
                rank=np.tile(self._pool.rank_of, count),
                environments=per_agent(decisions.environments),
                payload_bytes=decisions.payload_bytes.ravel(),
                wire_bytes=(
                    decisions.payload_bytes + self._pool.overhead * decisions.answers
                ).ravel(),
                ideal_bits=decisions.ideal_bits.ravel(),
                version=per_agent(decisions.version),
                t_local=device[:, 0],
                t_encode=device[:, 1],
                t_round_trip=device[:, 2],
                t_decode=decisions.decode_ns.ravel(),
                t_policy=per_agent(decisions.policy_ns),
                t_decision=per_agent(decisions.decision_ns),
                latent_age=decisions.age.ravel(),
                deadline_missed=decisions.missed.ravel(),
                idle=decisions.idle.ravel(),
                fallback=decisions.fallback.ravel(),
                late=decisions.late.ravel(),
            )

    def _resources(self, step: int, resources: Mapping[int, Resources]) -> None:
        mine = (*self._process.sample(), *self._energy.joules(), *self._idle_watts, 0)
        theirs = [tuple(getattr(each, name) for name in USAGE) for each in resources.values()]
        usage = dict(zip(USAGE, (np.array(column) for column in zip(mine, *theirs))))
        count = 1 + len(theirs)
        time_s = np.full(count, (now_ns() - self._started) * 1e-9)
        self._file.add(
            "resources", rank=[0, *resources], step=np.full(count, step), time_s=time_s, **usage
        )

    def _carried(self, step: int, resources: Mapping[int, Resources]) -> None:
        columns = (*Traffic._fields, *(f"carried_{name}" for name in Carried._fields))
        mine = (*self._pool.traffic(), *self._network.sample())
        theirs = [tuple(getattr(each, name) for name in columns) for each in resources.values()]
        values = dict(zip(columns, (np.array(column) for column in zip(mine, *theirs))))
        self._file.add(
            "traffic", rank=[0, *resources], step=np.full(1 + len(theirs), step), **values
        )


def _meta(
    config: Config,
    spec: EnvSpec,
    pool: ExecutorPool,
    server: Mapping[str, str | int],
    backend: str,
    roles: Roles,
) -> dict[str, str | int | float]:
    hosts = [server] + [each._asdict() for _, each in sorted(pool.hosts.items())]
    return {
        "config": to_yaml(config),
        "env": spec.name,
        "algo": config.algo.name,
        "seed": config.seed,
        "backend": backend,
        "emulated": _emulated(config),
        "placement": config.placement.mode,
        "executors": len(pool.hosts),
        "hosts": json.dumps(hosts),
        "versions": json.dumps(_versions()),
        "git_revision": _git_revision(),
        "codec": config.codec.name,
        "latent": local_shape(agents=(0,), spec=spec, policy=config.policy).latent_max(),
        "obs_sizes": json.dumps(spec.obs_sizes),
        "obs_dtype": spec.obs_dtype,
        "agents": json.dumps(spec.agents),
        "unit_types": json.dumps(spec.unit_types),
        "groups": json.dumps(roles.groups),
        "roles_source": roles.source,
        "started": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
    }


def _emulated(config: Config) -> str:
    """What is emulated, below the program or by it; empty: nothing."""
    model = config.link.model
    found = [os.environ.get(EMULATED, "")]
    if model != LinkProfile():
        found.append(
            f"latents {model.delay_ms:g} +- {model.jitter_ms:g} ms late, {model.loss:.1%} sent again"
        )
    return "; ".join(filter(None, found))


def _summary(episodes: Episodes) -> dict[str, float]:
    """Means over episodes; NaN where there is none, or winning means nothing."""
    won = episodes.won[episodes.won >= 0]
    means = {"return": episodes.returns, "length": episodes.length, "win_rate": won}
    return {
        name: float(values.mean()) if len(values) else float("nan")
        for name, values in means.items()
    }


def _traffic(decisions: Decisions, latents: np.ndarray) -> dict[str, float]:
    """What crossed the link; `latents` (N,) are the elements of an agent's.

    Bytes per decision of one agent; bits per latent element by the model (NaN where the codec has none); the shares of
    decisions whose latents came too late, and in which an agent therefore did nothing, or what its exit head says; late
    messages.
    """
    agents = decisions.payload_bytes.shape[1]
    made = max(int(decisions.environments.sum()) * agents, 1)
    heard = decisions.answers > decisions.late
    elements = (decisions.environments[:, None] * latents)[heard].sum()
    ideal = decisions.ideal_bits[heard]
    return {
        "bytes_per_decision": decisions.bytes_per_decision(),
        "bits_per_element": float(ideal.sum() / max(elements, 1))
        if (ideal >= 0).all()
        else float("nan"),
        "link/missed": float(decisions.missed.sum() / made),
        "link/idle": float(decisions.idle.sum() / made),
        "link/fallback": float(decisions.fallback.sum() / made),
        "link/late": float(decisions.late.sum()),
    }


def _versions() -> dict[str, str]:
    names = (
        "sde_harl",
        "numpy",
        "torch",
        "compressai",
        "mpi4py",
        "h5py",
        "jax",
        "jaxmarl",
        "mpe2",
        "scikit-learn",
    )
    return {"python": platform.python_version()} | {name: _installed(name) for name in names}


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _git_revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
