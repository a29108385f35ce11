"""What run.h5 holds: every table, column, type and unit, and the shape of a recorded episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy.typing as npt

Array = npt.NDArray[Any]


class Column(NamedTuple):
    """Type, unit and meaning of one column."""

    dtype: str
    unit: str
    description: str


STEP = Column("i8", "environment steps", "environment steps played when the row was made")
RANK = Column("i4", "1", "MPI rank")

TABLES: dict[str, dict[str, Column]] = {
    "episodes": {
        "step": STEP,
        "slot": Column("i4", "1", "part of the environments that is played in turn"),
        "env": Column("i4", "1", "environment inside its slot"),
        "train": Column("?", "1", "true: played to learn, false: an evaluation"),
        "seed": Column("i8", "1", "seed of the environment"),
        "length": Column("i4", "environment steps", "length of the episode"),
        "return": Column("f8", "reward", "undiscounted team return"),
        "won": Column("i1", "1", "1 won, 0 lost, -1 unknown"),
        "policy_version": Column("i8", "1", "published model at the episode's end"),
    },
    "decisions": {
        "step": STEP,
        "agent": Column("i4", "1", "agent that decided"),
        "train": Column("?", "1", "true: made to learn, false: in an evaluation"),
        "rank": Column("i4", "1", "MPI rank that coded the message"),
        "environments": Column("i4", "decisions", "environments (rows) in the message"),
        "payload_bytes": Column("i4", "byte", "coded latents, or what a whole policy sent instead"),
        "wire_bytes": Column(
            "i4", "byte", "frame, header and payload; a share, where agents answer as one"
        ),
        "ideal_bits": Column(
            "f8", "bit", "-log2 of the symbols' probability; negative or NaN: unknown"
        ),
        "version": Column("i8", "1", "published model the latents were made with"),
        "t_local": Column("i8", "ns", "local net, executor's clock; 0 or less: unknown"),
        "t_encode": Column("i8", "ns", "quantise and code, executor's clock; 0 or less: unknown"),
        "t_round_trip": Column(
            "i8", "ns", "sent until the actions are back, executor's clock; 0 or less: unknown"
        ),
        "t_decode": Column("i8", "ns", "check and decode, server's clock; 0 or less: unknown"),
        "t_policy": Column("i8", "ns", "group nets and heads, server's clock; 0 or less: unknown"),
        "t_decision": Column(
            "i8", "ns", "from the observations to the actions, server's clock; 0 or less: unknown"
        ),
        "latent_age": Column(
            "f4", "steps", "mean age of the latents used; 0 fresh, NaN: there were none"
        ),
        "deadline_missed": Column(
            "i4", "decisions", "environments whose latents had not come by the deadline"
        ),
        "idle": Column(
            "i4", "decisions", "environments in which the agent did nothing, for want of a latent"
        ),
        "fallback": Column(
            "i4",
            "decisions",
            "environments in which it did what its exit head says, for want of one",
        ),
        "late": Column(
            "i4",
            "messages",
            "answers to earlier decisions that came since; payload_bytes has them too",
        ),
    },
    "resources": {
        "rank": RANK,
        "step": STEP,
        "time_s": Column("f8", "s", "since the run's start"),
        "cpu_s": Column("f8", "s", "processor time of the process so far, user and system"),
        "rss_bytes": Column("i8", "byte", "resident memory"),
        "peak_rss_bytes": Column("i8", "byte", "largest resident memory so far"),
        "joules": Column(
            "f8",
            "J",
            "used by the rank's whole host so far, by its sensor; NaN: /meta hosts says why",
        ),
        "gpu_joules": Column(
            "f8", "J", "used by the host's GPUs so far; NaN: /meta hosts says why"
        ),
        "idle_w": Column("f8", "W", "of the host before the run began; NaN: not measured"),
        "gpu_idle_w": Column(
            "f8", "W", "of the host's GPUs before the run began; NaN: not measured"
        ),
        "alone": Column(
            "i8", "decisions", "so far by an executor's exit heads, while the server was silent"
        ),
    },
    "traffic": {
        "rank": RANK,
        "step": STEP,
        "sent": Column("i8", "messages", "messages sent so far"),
        "received": Column("i8", "messages", "messages received so far"),
        "sent_bytes": Column("i8", "byte", "frames sent so far, of every kind: header and payload"),
        "received_bytes": Column("i8", "byte", "frames received so far"),
        "carried_sent_bytes": Column(
            "i8", "byte", "sent so far by the interfaces used, all headers; -1: unknown"
        ),
        "carried_received_bytes": Column(
            "i8", "byte", "received so far by the interfaces used; -1: unknown"
        ),
        "carried_sent_packets": Column(
            "i8", "packets", "sent so far by the interfaces used; -1: unknown"
        ),
        "carried_received_packets": Column(
            "i8", "packets", "received so far by the interfaces used; -1: unknown"
        ),
    },
    "training": {},  # named by the first row
    "evaluations": {
        "step": STEP,
        "episodes": Column("i4", "episodes", "greedy episodes played"),
        "win_rate": Column("f8", "1", "share of episodes won; NaN where winning means nothing"),
        "return_mean": Column("f8", "reward", "mean return"),
        "return_std": Column("f8", "reward", "standard deviation of the returns"),
        "length_mean": Column("f8", "environment steps", "mean episode length"),
        "bits_per_element": Column("f8", "bit", "ideal bits for one latent element"),
        "bytes_per_decision": Column("f8", "byte", "payload for one decision of one agent"),
        "missed": Column("f8", "1", "share of the agents' decisions whose latents came too late"),
        "idle": Column("f8", "1", "share in which the agent did nothing, for want of a latent"),
        "fallback": Column(
            "f8", "1", "share in which the agent did what its exit head says, for want of a latent"
        ),
    },
    "roles": {
        "agent": Column("i4", "1", "agent"),
        "half": Column("i4", "1", "part of the agent's random play that this embedding is of"),
        **{
            f"mu_{k}": Column("f4", "1", f"number {k} of the identity's embedding")
            for k in range(8)
        },
        **{f"sigma_{k}": Column("f4", "1", f"deviation of number {k}") for k in range(8)},
    },
    "role_scores": {
        "groups": Column("i4", "1", "number of role groups"),
        "index": Column(
            "f8", "1", "Davies-Bouldin index of the agents in so many groups: less is better"
        ),
    },
    "faults": {
        "step": STEP,
        "rank": RANK,
        "agent": Column("i4", "1", "agent, -1 unknown"),
        "kind": Column("S48", "text", "what was wrong"),
    },
}


class Trajectory(NamedTuple):
    """One episode of T steps, as Minari lays it out; agents are the mappings' keys."""

    observations: Mapping[str, Array]  # each (T+1, O_i)
    actions: Mapping[str, Array]  # each (T,) or (T, A_i)
    rewards: Array  # (T,)
    terminations: Array  # (T,) bool
    truncations: Array  # (T,) bool
    seed: int
