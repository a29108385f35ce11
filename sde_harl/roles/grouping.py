"""Role groups, whose agents share a group net: from the configuration, the units' types, another run, or learnt.

They are found before anything is learnt, from `roles.source` and `roles.from`, and stay what they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sde_harl.config import Config, RolesConfig
from sde_harl.envs.base import EnvSpec, VectorEnv, stream
from sde_harl.errors import UserError
from sde_harl.policy.split import role_groups
from sde_harl.record.reading import read_meta
from sde_harl.roles.clusters import Groups, Score, as_groups, cluster
from sde_harl.roles.experience import play_at_random
from sde_harl.roles.identity import Embedding, embed

STREAM = 1 << 30
"""Index of the random stream that groups are learnt with; environments' are far below."""


class Roles(NamedTuple):
    """Who shares a group net, and how that was found."""

    source: str
    """As in `roles.source`, or the file of `roles.from`."""
    groups: Groups
    embedding: Embedding | None = None
    """Where the groups are learnt."""
    scores: tuple[Score, ...] = ()

    def settled(self, config: Config) -> Config:
        """The configuration with these groups in it, so that to run it again is to have the same nets."""
        if self.source == "config":
            return config
        policy, given = replace(config.policy, groups=self.groups), RolesConfig(steps=config.roles.steps)
        return replace(config, policy=policy, roles=given)

    def line(self) -> str:
        """One plain sentence."""
        many = "s" * (len(self.groups) > 1)
        text = f"roles ({self.source}): {len(self.groups)} group{many} of {sum(map(len, self.groups))} agents"
        found = {score.groups: f", index {score.davies_bouldin:.2f}" for score in self.scores}
        index = found.get(len(self.groups), "")
        return f"{text}{index}: {' '.join(str(list(group)) for group in self.groups)}"


def find_roles(config: Config, envs: Sequence[VectorEnv]) -> Roles:
    """The role groups of a run. Learning them plays `envs` at random, from their reset on.

    Raises UserError where the groups asked for can't be had.
    """
    roles, spec = config.roles, envs[0].spec
    agents = len(spec.agents)
    if roles.from_ != "none":
        return Roles(roles.from_, _of_run(Path(roles.from_), spec))
    if roles.source == "learnt":
        return _learnt(roles, envs, config.seed)
    if roles.source == "types":
        return Roles("types", _of_types(spec))
    if roles.source == "alone":
        return Roles("alone", tuple((agent,) for agent in range(agents)))
    if roles.source == "one":
        return Roles("one", (tuple(range(agents)),))
    return Roles("config", role_groups(config.policy.groups, agents, config.algo.share_param))


def _learnt(roles: RolesConfig, envs: Sequence[VectorEnv], seed: int) -> Roles:
    agents = envs[0].spec.agents
    if roles.count > len(agents):
        raise UserError(f"roles.count: expected {len(agents)} (the agents of {envs[0].spec.name}) or less")
    sequence = stream(seed, STREAM)
    number = int(sequence.generate_state(1)[0])
    experience = play_at_random(envs, roles.steps, np.random.default_rng(sequence))
    embedding = embed(experience, agents, number)
    clustering = cluster(embedding.mu, roles.count, number)
    return Roles("learnt", clustering.groups, embedding, clustering.scores)


def _of_types(spec: EnvSpec) -> Groups:
    if "" in spec.unit_types:
        raise UserError(f"roles.source: {spec.name} doesn't tell its agents' types; choose another source than types")
    return as_groups(spec.unit_types)


def _of_run(path: Path, spec: EnvSpec) -> Groups:
    """The groups that another run had."""
    meta = read_meta(path)
    agents, groups = (_list(path, name, meta.get(name, "")) for name in ("agents", "groups"))
    if agents != list(spec.agents):
        raise UserError(f"roles.from: {path} is of {_few(agents)}, and not of {_few(spec.agents)}")
    members = [agent for group in groups if isinstance(group, list) for agent in group]
    if [type(agent) for agent in members] != [int] * len(agents) or sorted(members) != list(range(len(agents))):
        raise UserError(f"roles.from: the groups of {path} don't hold each of its {len(agents)} agents once")
    return tuple(tuple(group) for group in groups if group)


def _list(path: Path, name: str, text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise UserError(f"roles.from: {path} has no list {name} in /meta; is it of an earlier version?")
    return value


def _few(agents: Sequence[Any]) -> str:
    names = ", ".join(ascii(agent)[:20] for agent in agents[:3])
    return f"{len(agents)} agents ({names}{', ...' * (len(agents) > 3)})"
