"""Describes what run.h5 holds: every table, column, type and unit, and a recorded episode.

A user sees these descriptions as attributes of the columns, in any HDF5 viewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy.typing as npt

Array = npt.NDArray[Any]


SCHEMA_VERSION = 1
"""Of all that this module describes: a reader of version 1 can't read a record of version 2.

It is raised where a table, column or attribute gets another meaning or is gone. One that is added
needs no new version.
"""


class Column(NamedTuple):
    """Holds type, unit and meaning of one column."""

    dtype: str
    unit: str
    description: str
    least: int | None = None
    """The least value that a reader takes; None: any."""


# Every time column follows the same rule, so that a reader needs one test for "not measured".
UNKNOWN_TIME = "0 or less: unknown"

STEP = Column(
    "i8", "environment steps", "environment steps played when the row was written", least=0
)
RANK = Column("i4", "1", "MPI rank", least=0)

# One row for each episode, of training or of an evaluation.
EPISODES = {
    "step": STEP,
    "slot": Column("i4", "1", "slot of the environment; slots are played in turn", least=0),
    "env": Column("i4", "1", "number of the environment", least=0),
    "train": Column("?", "1", "true: played for training, false: played in an evaluation"),
    "seed": Column("i8", "1", "seed of the environment"),
    "length": Column("i4", "environment steps", "length of the episode", least=0),
    "return": Column("f8", "reward", "undiscounted return of the team"),
    "won": Column("i1", "1", "1: won, 0: lost, -1: unknown", least=-1),
    "policy_version": Column("i8", "1", "version of the published policy at the episode's end"),
}

# One row for each agent and message, so this is by far the longest table.
DECISIONS = {
    "step": STEP,
    "agent": Column("i4", "1", "agent that the message is from", least=0),
    "train": Column("?", "1", "true: decided in training, false: decided in an evaluation"),
    "rank": Column("i4", "1", "MPI rank of the executor that encoded the message"),
    "environments": Column("i4", "decisions", "environments (rows) in the message", least=0),
    "payload_bytes": Column(
        "i4",
        "byte",
        "coded latents; of a policy on the device: the actions it sent instead",
        least=0,
    ),
    "wire_bytes": Column(
        "i4",
        "byte",
        "frame with header and payload; the agent's share where several agents share one message",
        least=0,
    ),
    "ideal_bits": Column(
        "f8", "bit", "-log2 of the probability of the symbols; negative or NaN: unknown"
    ),
    "version": Column("i8", "1", "version of the published policy that made the latents"),
    "t_local": Column("i8", "ns", f"time of the local net, executor's clock; {UNKNOWN_TIME}"),
    "t_encode": Column(
        "i8", "ns", f"time to quantise and encode, executor's clock; {UNKNOWN_TIME}"
    ),
    "t_round_trip": Column(
        "i8", "ns", f"from sending to the actions' arrival, executor's clock; {UNKNOWN_TIME}"
    ),
    "t_decode": Column("i8", "ns", f"time to check and decode, server's clock; {UNKNOWN_TIME}"),
    "t_policy": Column(
        "i8", "ns", f"time of the group nets and heads, server's clock; {UNKNOWN_TIME}"
    ),
    "t_decision": Column(
        "i8", "ns", f"from the observations to the actions, server's clock; {UNKNOWN_TIME}"
    ),
    "latent_age": Column(
        "f4", "steps", "mean age of the latents used; 0: all are fresh, NaN: there were none"
    ),
    "deadline_missed": Column(
        "i4", "decisions", "environments whose latents had not arrived by the deadline", least=0
    ),
    "idle": Column(
        "i4",
        "decisions",
        "environments in which the agent did nothing, because it had no latents",
        least=0,
    ),
    "fallback": Column(
        "i4",
        "decisions",
        "environments in which the fallback head chose the action, because there were no latents",
        least=0,
    ),
    "late": Column(
        "i4",
        "messages",
        "answers to earlier decisions that arrived since the last row; in payload_bytes too",
        least=0,
    ),
}

# One row for each rank and report. Counters start at zero with the process and only grow.
RESOURCES = {
    "rank": RANK,
    "step": STEP,
    "time_s": Column("f8", "s", "time since the start of the run"),
    "cpu_s": Column("f8", "s", "processor time of the process so far, user and system"),
    "rss_bytes": Column("i8", "byte", "resident memory", least=0),
    "peak_rss_bytes": Column("i8", "byte", "largest resident memory so far", least=0),
    "joules": Column(
        "f8",
        "J",
        "energy used by the rank's whole host so far, by its sensor; NaN: /meta hosts says why",
    ),
    "gpu_joules": Column(
        "f8", "J", "energy used by the host's GPUs so far; NaN: /meta hosts says why"
    ),
    "idle_w": Column("f8", "W", "power of the host before the run began; NaN: not measured"),
    "gpu_idle_w": Column(
        "f8", "W", "power of the host's GPUs before the run began; NaN: not measured"
    ),
    "alone": Column(
        "i8",
        "decisions",
        "decisions made so far by the executor's fallback heads while the server was silent",
        least=0,
    ),
}

# One row for each rank and report. "sent" is our own count, "carried_sent" the kernel's.
TRAFFIC = {
    "rank": RANK,
    "step": STEP,
    "sent": Column("i8", "messages", "messages sent so far", least=0),
    "received": Column("i8", "messages", "messages received so far", least=0),
    "sent_bytes": Column(
        "i8", "byte", "frames of every kind sent so far, header and payload", least=0
    ),
    "received_bytes": Column(
        "i8", "byte", "frames of every kind received so far, header and payload", least=0
    ),
    "carried_sent_bytes": Column(
        "i8",
        "byte",
        "sent so far by the network interfaces used, all headers; -1: unknown",
        least=-1,
    ),
    "carried_received_bytes": Column(
        "i8",
        "byte",
        "received so far by the network interfaces used, all headers; -1: unknown",
        least=-1,
    ),
    "carried_sent_packets": Column(
        "i8", "packets", "sent so far by the network interfaces used; -1: unknown", least=-1
    ),
    "carried_received_packets": Column(
        "i8", "packets", "received so far by the network interfaces used; -1: unknown", least=-1
    ),
}

CUMULATIVE = {
    "resources": ("time_s", "cpu_s", "joules", "gpu_joules", "alone"),
    "traffic": tuple(name for name in TRAFFIC if name not in ("rank", "step")),
}
"""The columns that count from the start of a process; a resumed run's processes start anew."""

# One row for each evaluation: means over its greedy episodes.
EVALUATIONS = {
    "step": STEP,
    "episodes": Column("i4", "episodes", "greedy episodes played", least=0),
    "win_rate": Column("f8", "1", "share of episodes won; NaN: the environment has no winner"),
    "return_mean": Column("f8", "reward", "mean of the returns"),
    "return_std": Column("f8", "reward", "standard deviation of the returns"),
    "length_mean": Column("f8", "environment steps", "mean length of the episodes"),
    "bits_per_element": Column(
        "f8", "bit", "bits for one element of a latent, by the entropy model"
    ),
    "bytes_per_decision": Column("f8", "byte", "payload for one decision of one agent"),
    "missed": Column("f8", "1", "share of decisions whose latents missed the deadline"),
    "idle": Column(
        "f8", "1", "share of decisions in which an agent did nothing, because it had no latents"
    ),
    "fallback": Column(
        "f8", "1", "share of decisions that the fallback head made, because there were no latents"
    ),
}

# BINS rows (codec/symbols.py) for each agent at each evaluation, where symbols are coded by tables.
SYMBOLS = {
    "step": STEP,
    "agent": Column("i4", "1", "agent that sent the symbols", least=0),
    "symbol": Column(
        "i4",
        "1",
        "distance from the median, in steps of the quantiser; -16 and 16: all at least as far",
        least=-16,
    ),
    "sent": Column(
        "i8",
        "symbols",
        "how often the evaluation's messages held it, in all latent elements together",
        least=0,
    ),
    "probability": Column(
        "f4", "1", "its probability by the coder's tables, the mean of the latent elements'"
    ),
}

EMBEDDING_SIZE = 8

# Written once, before training, where role groups are learnt: one row for each agent and half of
# its random play.
ROLES = {
    "agent": Column("i4", "1", "number of the agent", least=0),
    "half": Column(
        "i4", "1", "half of the agent's random play that this embedding is from", least=0
    ),
    **{
        f"mu_{k}": Column("f4", "1", f"element {k} of the identity's embedding")
        for k in range(EMBEDDING_SIZE)
    },
    **{
        f"sigma_{k}": Column("f4", "1", f"standard deviation of element {k}")
        for k in range(EMBEDDING_SIZE)
    },
}

ROLE_SCORES = {
    "groups": Column("i4", "1", "number of role groups", least=1),
    "index": Column(
        "f8", "1", "Davies-Bouldin index of the agents in this number of groups; less is better"
    ),
}

FAULTS = {
    "step": STEP,
    "rank": RANK,
    "agent": Column("i4", "1", "agent; -1: unknown", least=-1),
    "kind": Column(
        "S48", "text", "what was wrong with the message; void: a game failed, no episode counted"
    ),
}

SCALAR = Column("f8", "1", "a scalar that the algorithm reports")
"""A column of `training`, by whatever name."""

TABLES: dict[str, dict[str, Column]] = {
    "episodes": EPISODES,
    "decisions": DECISIONS,
    "resources": RESOURCES,
    "traffic": TRAFFIC,
    # Each algorithm logs other scalars, so the first row of a run names the columns.
    "training": {},
    "evaluations": EVALUATIONS,
    "symbols": SYMBOLS,
    "roles": ROLES,
    "role_scores": ROLE_SCORES,
    "faults": FAULTS,
}


META: dict[str, type] = {
    "schema": int,  # SCHEMA_VERSION
    "config": str,  # YAML
    "env": str,
    "algo": str,
    "seed": int,
    "backend": str,
    "emulated": str,
    "placement": str,
    "executors": int,
    "hosts": str,  # JSON, as is all that is named in the plural
    "versions": str,
    "git_revision": str,
    "codec": str,
    "latent": int,
    "obs_sizes": str,
    "obs_dtype": str,
    "agents": str,
    "unit_types": str,
    "groups": str,
    "roles_source": str,
    "started": str,
    "before": str,
}
"""The attributes of /meta, and Python's type of each."""


class Trajectory(NamedTuple):
    """Holds one episode of T steps in Minari's layout; the keys of the mappings are the agents."""

    observations: Mapping[str, Array]  # each (T+1, O_i)
    actions: Mapping[str, Array]  # each (T,) or (T, A_i)
    rewards: Array  # (T,)
    terminations: Array  # (T,) bool
    truncations: Array  # (T,) bool
    seed: int
