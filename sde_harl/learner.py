"""Rank 0's loop: collect -> report -> learn -> publish -> evaluate -> record. Knows no MPI, no algorithm's insides."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from sde_harl.algorithms import ALGORITHMS
from sde_harl.algorithms.rollout import Rollout
from sde_harl.codec.tables import Tables
from sde_harl.collector import Collector, Episodes, Seat, evaluate
from sde_harl.config import Config
from sde_harl.decisions import Decisions
from sde_harl.envs import make, resolve_backend
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.executor import hello
from sde_harl.fleet import Fleet, Plan
from sde_harl.layering import to_yaml
from sde_harl.link.transport import Transport
from sde_harl.link.wire import OVERHEAD, Resources
from sde_harl.meters.process import Process
from sde_harl.meters.timing import Stages, now_ns
from sde_harl.policy.critic import Critic
from sde_harl.policy.split import SplitPolicy, local_shape
from sde_harl.policy.view import make_view
from sde_harl.policy.whole import WholeShape
from sde_harl.record.checkpoint import save
from sde_harl.record.metrics import Metrics
from sde_harl.record.trajectories import RunFile, run_folder
from sde_harl.tape import Tape

SLOTS = 2
"""Half-batches in flight."""


class Learner:
    """One training run."""

    def __init__(self, config: Config, transport: Transport) -> None:
        self.config = config
        torch.set_num_threads(config.train.threads or os.cpu_count() or 1)
        backend, line = resolve_backend(config.env)
        self._stages, self._process = Stages(), Process()
        half = config.train.envs // SLOTS
        self._envs = envs = [make(config.env, half, config.seed, slot * half) for slot in range(SLOTS)]
        torch.set_flush_denormal(True)  # a policy that has made up its mind is full of them, and they are slow
        self.spec: EnvSpec = envs[0].spec
        algorithm = ALGORITHMS[config.algo.name]
        if self.spec.continuous and not algorithm.continuous:
            raise UserError(f"algo.name: {config.algo.name} can't act in the continuous actions of {self.spec.name}")
        shape = local_shape(self.spec, config.policy, tuple(range(len(self.spec.agents))))
        assign = dict(config.placement.assign)
        link = (SLOTS, assign, config.link.patience_s)
        actions = (len(self.spec.branches), self.spec.continuous, self._whole())
        self.fleet = Fleet(transport, Plan(shape, config.codec.name, config.codec.pack, half, *link, *actions))
        self.fleet.handshake()
        self._seed(config.seed)
        share = config.algo.share_param
        self.policy = SplitPolicy(self.spec, config.policy, config.codec, share, self._torch)
        view = make_view("own" if algorithm.own_view else config.env.state_type, self.spec)
        critic = Critic(view, config.policy, share or not algorithm.own_view, self._torch)
        self.algorithm = algorithm(self.policy, critic, config.algo, config.codec, self._torch)
        chunks = (config.algo.chunk, config.policy.width) if config.policy.recurrent else (1, 0)
        sizes = (config.train.rollout, config.train.envs, 0 if self.fleet.whole else shape.latent_max())
        self._rollout = Rollout(self.spec, *sizes, view, *chunks)
        self._seats = [Seat(slot, env, self.fleet, self._stages) for slot, env in enumerate(envs)]
        self._collector = Collector(self._seats, self._rollout, self._numpy, self._played)
        self._episodes: list[Episodes] = []
        self._eval_seats: list[Seat] = []
        self._open(backend, [line, f"{self.spec.name}, {config.algo.name}, {transport.size - 1} executor(s)"])
        self.steps = 0
        self._started = now_ns()

    def _open(self, backend: str, notes: list[str]) -> None:
        """Make the run's folder and its record; last of all, so that a run that can't start leaves none behind."""
        config, (env, task) = self.config, self.spec.name.split("/", 1)
        self.folder = run_folder(Path(config.record.dir), env, task, config.algo.name, config.record.exp, config.seed)
        (self.folder / "models").mkdir()
        (self.folder / "config.yaml").write_text(to_yaml(config))
        self._record = RunFile(self.folder / "run.h5", self._meta(backend), config.record.on_disk_full)
        self._metrics = Metrics(self.folder, config.record.tensorboard, config.train.steps)
        for note in [*notes, f"run folder {self.folder}"]:
            self._metrics.note(note)

    def _whole(self) -> WholeShape | None:
        """What devices have to know that run their whole policies."""
        if self.config.policy.local_blocks < self.config.policy.blocks:
            return None
        memory = self.config.policy.width if self.config.policy.recurrent else 0
        return WholeShape(self.spec.branches, self.spec.continuous, self.config.seed, memory)

    def _seed(self, seed: int) -> None:
        sequence = np.random.SeedSequence(seed)
        self._numpy = np.random.Generator(np.random.PCG64(sequence.spawn(1)[0]))
        self._torch = torch.Generator().manual_seed(int(sequence.generate_state(1)[0]))
        torch.manual_seed(seed)  # CompressAI draws its initial densities from the global generator

    def run(self) -> None:
        """Train to the end; whatever happens, what was learnt and recorded is saved."""
        try:
            self._train()
        finally:
            try:
                self._checkpoint("last")
            finally:
                self._record.close()
                self._metrics.close()
                for env in self._envs:
                    env.close()

    def _train(self) -> None:
        self._publish()
        while self.steps < self.config.train.steps:
            before = self.steps
            self._update()
            for interval, action in (
                (self.config.eval.interval, self._evaluate),
                (self.config.record.checkpoint_interval, self._checkpoint),
            ):
                if self.steps >= self.config.train.steps or (interval and before // interval != self.steps // interval):
                    action()

    def _update(self) -> None:
        """One rollout and what is learnt from it."""
        started, first = now_ns(), self.steps // self.config.train.envs
        self._collector.collect(self._acting, first)
        self.steps += self._rollout.rewards.size
        episodes, self._episodes = Episodes.join(self._episodes), []
        with self._stages("report"):
            decisions, resources = self.fleet.report()
            self._record_decisions(decisions)
            self._record_resources(resources)
            for fault in self.fleet.faults():
                self._record.add("faults", step=fault.step, rank=fault.rank, agent=fault.agent, kind=fault.reason)
        with self._stages("learn"):
            scalars = self.algorithm.update(self._rollout, self.steps / self.config.train.steps)
        with self._stages("publish"):
            self._publish()
        elapsed = (now_ns() - started) * 1e-9
        seconds = self._stages.take()
        scalars |= {f"share/{name}": seconds.get(name, 0.0) / elapsed for name in STAGES}
        scalars |= _summary(episodes) | _traffic(decisions, self._latent_elements())
        scalars["steps_per_s"] = self._rollout.rewards.size / elapsed
        self._record.add("training", step=self.steps, **scalars)
        self._metrics.log(self.steps, scalars)

    def _publish(self) -> None:
        """A new version of everything that acts: local nets and tables to the executors, the rest to this process."""
        number = self.fleet.version + 1
        tables: list[Tables] = []
        if self.config.codec.name == "entropy":
            tables = self.policy.build_tables(number)
        self.fleet.publish(number, self.policy.local_parameters(), tables)
        self._acting = self.policy.acting()

    def _evaluate(self) -> None:
        """Fixed greedy episodes, the same ones every time."""
        config = self.config
        if not config.eval.episodes:
            return
        if not self._eval_seats:
            half = config.train.envs // SLOTS
            envs = [make(config.env, half, config.seed, EVAL_FIRST_ENV + slot * half) for slot in range(SLOTS)]
            self._envs += envs
            self._eval_seats = [Seat(slot, env, self.fleet, self._stages) for slot, env in enumerate(envs)]
        tapes = None
        if config.record.trajectories == "eval":
            half = config.train.envs // SLOTS
            tapes = [Tape(self.spec, half, self._record.trajectory) for _ in range(SLOTS)]
        when = self.steps // config.train.envs
        episodes = evaluate(self._eval_seats, self._acting, config.eval.episodes, when, tapes)
        decisions, _ = self.fleet.report()
        scalars = _summary(episodes) | _traffic(decisions, self._latent_elements())
        self._record_episodes(episodes, train=False)
        self._record.add(
            "evaluations",
            step=self.steps,
            episodes=len(episodes.length),
            win_rate=scalars["win_rate"],
            return_mean=scalars["return"],
            return_std=float(episodes.returns.std()),
            length_mean=scalars["length"],
            bits_per_element=scalars["bits_per_element"],
            bytes_per_decision=scalars["bytes_per_decision"],
        )
        self._metrics.log(self.steps, {f"eval/{key}": value for key, value in scalars.items()})

    def _checkpoint(self, name: str = "") -> None:
        tensors = {f"policy.{key}": value for key, value in self.policy.state_dict().items()}
        tensors |= {f"critic.{key}": value for key, value in self.algorithm.critic.critic.state_dict().items()}
        tensors["value_norm"] = self.algorithm.critic.norm.state()
        meta: dict[str, str | int | float] = {
            "env": self.spec.name,
            "algo": self.config.algo.name,
            "steps": self.steps,
            "version": self.fleet.version,
        }
        try:
            save(self.folder / "models" / f"{name or self.steps}.pt", tensors, meta)
        except UserError as error:
            if self.config.record.on_disk_full == "stop":
                raise
            self._metrics.note(str(error))

    def _played(self, episodes: Episodes) -> None:
        self._record.flush(wait=True)  # so that a kill loses no more than the episodes that end now
        self._episodes.append(episodes)
        self._record_episodes(episodes, train=True)

    def _record_episodes(self, episodes: Episodes, train: bool) -> None:
        count = len(episodes.length)
        self._record.add(
            "episodes",
            step=np.full(count, self.steps),
            slot=episodes.environment // (self.config.train.envs // SLOTS),
            env=episodes.environment,
            train=np.full(count, train),
            seed=episodes.seed,
            length=episodes.length,
            won=episodes.won,
            policy_version=np.full(count, self.fleet.version),
            **{"return": episodes.returns},
        )

    def _record_decisions(self, decisions: Decisions) -> None:
        count, agents = decisions.payload_bytes.shape
        if self.config.record.decisions and count:
            per_agent = lambda column: np.repeat(column, agents)  # noqa: E731
            device = decisions.device_ns.reshape(-1, 3)
            self._record.add(
                "decisions",
                step=per_agent(decisions.step),
                agent=np.tile(np.arange(agents), count),
                rank=np.tile(self.fleet.rank_of, count),
                environments=per_agent(decisions.environments),
                payload_bytes=decisions.payload_bytes.ravel(),
                wire_bytes=decisions.payload_bytes.ravel() + OVERHEAD,
                ideal_bits=decisions.ideal_bits.ravel(),
                version=per_agent(decisions.version),
                t_local=device[:, 0],
                t_encode=device[:, 1],
                t_round_trip=device[:, 2],
                t_decode=decisions.decode_ns.ravel(),
                t_policy=per_agent(decisions.policy_ns),
            )

    def _record_resources(self, resources: dict[int, Resources]) -> None:
        mine = self._process.sample()
        rows = [(0, mine.cpu_s, mine.rss_bytes, mine.peak_rss_bytes)]
        rows += [(rank, each.cpu_s, each.rss_bytes, each.peak_rss_bytes) for rank, each in resources.items()]
        rank, cpu, rss, peak = (np.array(column) for column in zip(*rows))
        time_s = np.full(len(rows), (now_ns() - self._started) * 1e-9)
        step = np.full(len(rows), self.steps)
        usage = {"cpu_s": cpu, "rss_bytes": rss, "peak_rss_bytes": peak}
        self._record.add("resources", rank=rank, step=step, time_s=time_s, **usage)

    def _latent_elements(self) -> int:
        """Latent elements of one decision of all agents."""
        return sum(self.policy.shape.latent_sizes())

    def _meta(self, backend: str) -> dict[str, str | int | float]:
        config, spec = self.config, self.spec
        hosts = [hello()] + [each._asdict() for _, each in sorted(self.fleet.hosts.items())]
        return {
            "config": to_yaml(config),
            "env": spec.name,
            "algo": config.algo.name,
            "seed": config.seed,
            "backend": backend,
            "placement": config.placement.mode,
            "executors": len(self.fleet.hosts),
            "hosts": json.dumps(hosts),
            "versions": json.dumps(_versions()),
            "git_revision": _git_revision(),
            "codec": config.codec.name,
            "latent": local_shape(spec, config.policy, (0,)).latent_max(),
            "obs_sizes": json.dumps(spec.obs_sizes),
            "agents": json.dumps(spec.agents),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }


STAGES = ("environment", "send", "latents", "policy", "devices", "report", "learn", "publish")
"""Where the learner's time goes; what is left over is evaluation, checkpoints and logging."""
EVAL_FIRST_ENV = 1 << 20
"""Evaluation environments are numbered from here, so that none shares a random stream with training."""


def _summary(episodes: Episodes) -> dict[str, float]:
    """Means over episodes; NaN where there is none, or winning means nothing."""
    won = episodes.won[episodes.won >= 0]
    means = {"return": episodes.returns, "length": episodes.length, "win_rate": won}
    return {name: float(values.mean()) if len(values) else float("nan") for name, values in means.items()}


def _traffic(decisions: Decisions, elements: int) -> dict[str, float]:
    """Bytes per decision of one agent, and bits per latent element by the model (NaN where the codec has none)."""
    made = decisions.environments.sum()
    agents = decisions.payload_bytes.shape[1]
    ideal = decisions.ideal_bits
    return {
        "bytes_per_decision": float(decisions.payload_bytes.sum() / max(made * agents, 1)),
        "bits_per_element": float(ideal.sum() / max(made * elements, 1)) if (ideal >= 0).all() else float("nan"),
    }


def _versions() -> dict[str, str]:
    names = ("sde_harl", "numpy", "torch", "compressai", "mpi4py", "h5py", "jax", "jaxmarl", "mpe2")
    return {"python": platform.python_version()} | {name: _installed(name) for name in names}


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _git_revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
