"""Reads from a run's record how it stands now. It opens the record to read, and writes nothing."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np

from sde_harl.analysis.run_config import setting
from sde_harl.errors import UserError
from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array

RECENT_DECISIONS = 200
"""The decisions that say how an agent's link is now."""
RECENT_ROWS = 40
"""Rows of each rank that tell how fast the run goes on."""
RECENT_FAULTS = 2000
QUIET_S = 120.0
"""A record that nothing was written to for so long may be that of a run that has died."""
RESULTS = {
    "win rate, training": ("win_rate", "{:.1%}"),
    "return, training": ("return", "{:.2f}"),
    "bytes a decision": ("bytes_per_decision", "{:.1f}"),
    "missed deadlines": ("link.missed", "{:.1%}"),
    "idle": ("link.idle", "{:.1%}"),
    "fallback": ("link.fallback", "{:.1%}"),
}
"""What is shown of /training: the column, and its form."""
EVALUATED = {
    "win rate, last evaluation": ("win_rate", "{:.1%}"),
    "return, last evaluation": ("return_mean", "{:.2f}"),
}
"""The same of /evaluations."""
OF_DECISIONS = (
    *("agent", "rank", "environments", "deadline_missed", "latent_age", "idle", "fallback"),
    *("payload_bytes", "t_local", "t_encode", "t_round_trip"),
)
COMING_AND_GOING = ("absent", "back", "lost")
"""The faults that tell whether an executor answers."""


class Agent(NamedTuple):
    """How an agent's link is, over its recent decisions; NaN: unknown."""

    name: str
    rank: str
    health: str
    age: float  # mean of the latents used, steps
    missed: float  # share of decisions whose latents missed the deadline
    idle: float
    fallback: float
    milliseconds: float  # median, from the observation to the action
    bytes: float  # of a decision


class State(NamedTuple):
    """How a run stands; NaN: unknown."""

    title: str
    folder: str
    steps: int
    planned: int  # 0: unknown
    steps_per_s: float
    seconds: float  # since its start
    quiet_s: float  # since its record was written
    results: dict[str, str]
    agents: list[Agent]
    faults: dict[str, int]

    @property
    def share(self) -> float:
        """Returns how much of the run is done, 0 to 1; 0 where that is unknown."""
        if not self.planned:
            return 0.0
        return min(1.0, self.steps / self.planned)

    @property
    def left_s(self) -> float:
        """Returns how long the rest will take; NaN where that is unknown."""
        if not self.planned or not self.steps_per_s > 0:
            return math.nan
        return max(0, self.planned - self.steps) / self.steps_per_s

    @property
    def phase(self) -> str:
        if self.planned and self.steps >= self.planned:
            return "done"
        if self.quiet_s > QUIET_S:
            return "silent"
        return "running"


def planned_steps(run: Run) -> int:
    """Returns the steps that the run will play; 0 where its configuration doesn't tell."""
    try:
        steps = setting(run, "train.steps", kind=int)
        rollout = setting(run, "train.envs", kind=int) * setting(run, "train.rollout", kind=int)
    except UserError:
        return 0
    # Whole rollouts are played.
    return -(-steps // max(rollout, 1)) * max(rollout, 1)


def read_state(run: Run, planned: int) -> State:
    """Returns how the run stands. Raises UserError where its record can't be read just now.

    planned: as `planned_steps` returns it. To read it anew each time would take most of the time.
    """
    training = run.tail("training", 1, only=_columns(RESULTS))
    evaluations = run.tail("evaluations", 1, only=_columns(EVALUATED))
    ranks = 1 + run.number("executors")
    resources = run.tail("resources", RECENT_ROWS * ranks, only=("rank", "step", "time_s"))
    faults = _kinds(run.tail("faults", RECENT_FAULTS, only=("rank", "kind")))
    server = {name: values[resources["rank"] == 0] for name, values in resources.items()}
    return State(
        title=f"{run.env}, {run.algo}, seed {run.seed}",
        folder=str(run.path.parent),
        steps=max(_last_step(each) for each in (training, evaluations, resources)),
        planned=planned,
        steps_per_s=_steps_per_s(server),
        seconds=_last(server, "time_s"),
        quiet_s=_quiet_s(run),
        results=_results(training, evaluations),
        agents=_agents(run, faults),
        faults=_counts(faults),
    )


def _last_step(table: Columns) -> int:
    return int(max(table.get("step", [0])[-1:], default=0))


def _last(table: Columns, name: str) -> float:
    values = table.get(name, np.zeros(0))
    if not len(values):
        return math.nan
    return float(values[-1])


def _steps_per_s(server: Columns) -> float:
    times = server.get("time_s", np.zeros(0))
    if len(times) < 2 or not times[-1] > times[0]:
        return math.nan
    return float((server["step"][-1] - server["step"][0]) / (times[-1] - times[0]))


def _quiet_s(run: Run) -> float:
    paths = [run.path, *(segment.path for segment in run.segments)]
    return max(0.0, time.time() - max(path.stat().st_mtime for path in paths))


def _results(training: Columns, evaluations: Columns) -> dict[str, str]:
    """Returns the newest figures as text, by their names."""
    found = {
        name: _shown(_last(table, column), form)
        for table, shown in ((evaluations, EVALUATED), (training, RESULTS))
        for name, (column, form) in shown.items()
    }
    return {name: value for name, value in found.items() if value}


def _columns(shown: dict[str, tuple[str, str]]) -> set[str]:
    return {"step"}.union(column for column, _ in shown.values())


def _shown(value: float, form: str) -> str:
    if math.isnan(value):
        return ""
    return form.format(value)


class _Fault(NamedTuple):
    rank: int
    kind: str


def _kinds(faults: Columns) -> list[_Fault]:
    ranks = faults.get("rank", np.zeros(0))
    kinds = faults.get("kind", np.zeros(0))
    return [
        _Fault(rank=int(rank), kind=kind.decode(errors="replace"))
        for rank, kind in zip(ranks, kinds.tolist())
    ]


def _counts(faults: list[_Fault]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for fault in faults:
        counts[fault.kind] = counts.get(fault.kind, 0) + 1
    return counts


def _agents(run: Run, faults: list[_Fault]) -> list[Agent]:
    names = run.json_list("agents")
    table = run.tail("decisions", RECENT_DECISIONS * max(1, len(names)), only=OF_DECISIONS)
    # By rank: the last of these faults tells whether the executor answers.
    standing = {fault.rank: fault.kind for fault in faults if fault.kind in COMING_AND_GOING}
    return [_agent(table, number, name, standing) for number, name in enumerate(names)]


def _agent(table: Columns, number: int, name: str, standing: dict[int, str]) -> Agent:
    rows = table.get("agent", np.zeros(0)) == number
    if not rows.any():
        unknown = math.nan
        return Agent(name, "-", "unknown", *[unknown] * 6)
    own = {key: values[rows] for key, values in table.items()}
    made = max(int(own["environments"].sum()), 1)
    missed = float(own["deadline_missed"].sum()) / made
    rank = int(own["rank"][-1])
    return Agent(
        name=name,
        rank=str(rank),
        health=_health(standing.get(rank, "back"), missed),
        age=_mean_known(own["latent_age"]),
        missed=missed,
        idle=float(own["idle"].sum()) / made,
        fallback=float(own["fallback"].sum()) / made,
        milliseconds=_message_ms(own),
        bytes=float(own["payload_bytes"].sum()) / made,
    )


def _health(standing: str, missed: float) -> str:
    if standing != "back":
        return standing
    if missed > 0:
        return "late at times"
    return "good"


def _mean_known(values: Array) -> float:
    known = values[np.isfinite(values)]
    if not len(known):
        return math.nan
    return float(known.mean())


def _message_ms(own: Columns) -> float:
    local, encode, round_trip = (
        own[name].astype(np.float64) for name in ("t_local", "t_encode", "t_round_trip")
    )
    # A device that decides by itself encodes nothing and waits for no answer.
    whole = np.where(round_trip > 0, local + encode + round_trip, local)[local > 0]
    if not len(whole):
        return math.nan
    return float(np.median(whole)) / 1e6
