"""Role groups, whose agents share a group net: from the configuration, the units' types, another run, or learnt.

They are found before anything else is learnt, from `roles.source` and `roles.from`, and stay what they are; a
checkpoint holds them, since its nets mean nothing in other groups.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sde_harl.config.schema import Config, RolesConfig
from sde_harl.draws.counters import Purpose, derived_seed
from sde_harl.envs.base import EnvSpec, VectorEnv
from sde_harl.errors import UserError
from sde_harl.policy.shapes import role_groups
from sde_harl.record.checkpoint import load
from sde_harl.record.reader import open_run
from sde_harl.roles.clusters import Groups, Score, as_groups, cluster
from sde_harl.roles.experience import play_at_random
from sde_harl.roles.identity import Embedding, embed


class Roles(NamedTuple):
    """Who shares a group net, and how that was found."""

    source: str
    """As in `roles.source`, or the file they were taken from."""
    groups: Groups
    embedding: Embedding | None = None
    """Where the groups are learnt."""
    scores: tuple[Score, ...] = ()

    def line(self) -> str:
        """One plain sentence."""
        many = "s" * (len(self.groups) > 1)
        text = f"roles ({self.source}): {len(self.groups)} group{many} of {sum(map(len, self.groups))} agents"
        found = {score.groups: f", index {score.davies_bouldin:.2f}" for score in self.scores}
        index = found.get(len(self.groups), "")
        return f"{text}{index}: {' '.join(str(list(group)) for group in self.groups)}"


def find_roles(config: Config, envs: Sequence[VectorEnv]) -> Roles:
    """The role groups of a run. Learning them plays `envs` at random, from their reset on.

    Where they were learnt and the run starts from a checkpoint, they are the checkpoint's. Raises UserError where the
    groups asked for can't be had.
    """
    roles, spec = config.roles, envs[0].spec
    agents = len(spec.agents)
    if roles.from_ != "none":
        return Roles(roles.from_, _of_run(Path(roles.from_), spec))
    if roles.source == "learnt" and config.train.load != "none":
        return Roles(config.train.load, _of_checkpoint(Path(config.train.load), agents))
    if roles.source == "learnt":
        return _learnt(roles, envs, config.seed)
    if roles.source == "types":
        return Roles("types", _of_types(spec))
    if roles.source == "alone":
        return Roles("alone", tuple((agent,) for agent in range(agents)))
    if roles.source == "one":
        return Roles("one", (tuple(range(agents)),))
    share = config.algo.share_param
    return Roles("config", role_groups(config.policy.groups, agents=agents, share=share))


def _learnt(roles: RolesConfig, envs: Sequence[VectorEnv], seed: int) -> Roles:
    agents = envs[0].spec.agents
    if roles.count > len(agents):
        raise UserError(
            f"roles.count: expected {len(agents)} (the agents of {envs[0].spec.name}) or less"
        )
    number = derived_seed(seed, Purpose.EMBEDDING)
    experience = play_at_random(envs, roles.steps, seed)
    embedding = embed(experience, agents, number)
    clustering = cluster(embedding.mu, roles.count, number)
    return Roles("learnt", clustering.groups, embedding, clustering.scores)


def _of_types(spec: EnvSpec) -> Groups:
    if "" in spec.unit_types:
        raise UserError(
            f"roles.source: {spec.name} doesn't tell its agents' types; choose another source than types"
        )
    return as_groups(spec.unit_types)


def _of_run(path: Path, spec: EnvSpec) -> Groups:
    """The groups that another run had."""
    meta = open_run(path).meta
    said = f"roles.from: {path}"
    agents, groups = (
        _list(str(meta.get(name, "")), f"{said} has no list {name} in /meta")
        for name in ("agents", "groups")
    )
    if agents != list(spec.agents):
        raise UserError(f"{said} is of {_few(agents)}, and not of {_few(spec.agents)}")
    return _checked(groups, len(agents), said)


def _of_checkpoint(path: Path, agents: int) -> Groups:
    """The groups that a checkpoint's nets were learnt in."""
    said = f"train.load: {path}"
    groups = str(load(path).values.get("run/groups", ""))
    return _checked(_list(groups, f"{said} tells no groups"), agents, said)


def _checked(groups: list[Any], agents: int, said: str) -> Groups:
    members = [agent for group in groups if isinstance(group, list) for agent in group]
    if [type(agent) for agent in members] != [int] * agents or sorted(members) != list(
        range(agents)
    ):
        raise UserError(f"{said} has groups that don't hold each of {agents} agents once")
    return tuple(tuple(group) for group in groups if group)


def _list(text: str, otherwise: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise UserError(f"{otherwise}; is it of an earlier version?")
    return value


def _few(agents: Sequence[Any]) -> str:
    names = ", ".join(ascii(agent)[:20] for agent in agents[:3])
    return f"{len(agents)} agents ({names}{', ...' * (len(agents) > 3)})"
