"""The role groups of a run. The agents of a group share a group net.

They come from the configuration, the units' types, another run, or are learnt (`roles.source`,
`roles.from`). They are found before anything else is learnt and never change after that. A
checkpoint holds them, since its nets mean nothing in other groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sde_harl.config.schema import Config, RolesConfig
from sde_harl.draws.counters import Purpose, derived_seed
from sde_harl.envs.base import EnvSpec, VectorEnv
from sde_harl.errors import UserError
from sde_harl.outside.text import strict_json
from sde_harl.policy.shapes import role_groups
from sde_harl.record.checkpoint import load
from sde_harl.record.reader import open_run
from sde_harl.roles.clusters import Groups, Score, as_groups, cluster
from sde_harl.roles.experience import play_at_random
from sde_harl.roles.identity import Embedding, embed


class Roles(NamedTuple):
    """The role groups, and how they were found."""

    source: str
    """As in `roles.source`, or the file that they were taken from."""
    groups: Groups
    embedding: Embedding | None = None
    """None unless the groups were learnt in this run."""
    scores: tuple[Score, ...] = ()
    """For each number of groups; empty unless they were learnt in this run."""

    def line(self) -> str:
        """Returns one plain sentence for the log."""
        count = len(self.groups)
        plural = "s" * (count > 1)
        agents = sum(map(len, self.groups))
        indices = {score.groups: f", index {score.davies_bouldin:.2f}" for score in self.scores}
        index = indices.get(count, "")
        members = " ".join(str(list(group)) for group in self.groups)
        return f"roles ({self.source}): {agents} agents in {count} group{plural}{index}: {members}"


def find_roles(config: Config, envs: Sequence[VectorEnv], nets: Path | None = None) -> Roles:
    """Returns the role groups of a run.

    Learning them plays `envs` at random, from their reset on. A run that starts from a checkpoint
    takes the checkpoint's groups and learns none. Raises UserError where the groups that the
    configuration asks for can't be had.
    """
    roles = config.roles
    spec = envs[0].spec
    agents = len(spec.agents)
    # Another run's groups come first: they are given beside any `roles.source`.
    if roles.from_ != "none":
        return Roles(source=roles.from_, groups=_of_run(Path(roles.from_), spec))
    if roles.source == "learnt" and nets:
        return Roles(source=str(nets), groups=_of_checkpoint(nets, agents))
    if roles.source == "learnt":
        return _learnt(roles, envs, config.seed)
    return Roles(source=roles.source, groups=_by_rule(config, spec))


def _by_rule(config: Config, spec: EnvSpec) -> Groups:
    """Returns the groups of a source that needs neither a file nor learning."""
    agents = len(spec.agents)
    source = config.roles.source
    if source == "types":
        return _of_types(spec)
    if source == "alone":
        return tuple((agent,) for agent in range(agents))
    if source == "one":
        return (tuple(range(agents)),)
    share = config.algo.share_param
    return role_groups(config.policy.groups, agents=agents, share=share)


def _learnt(roles: RolesConfig, envs: Sequence[VectorEnv], seed: int) -> Roles:
    """Plays at random, embeds the agents' identities and clusters them."""
    spec = envs[0].spec
    agents = spec.agents
    if roles.count > len(agents):
        raise UserError(f"roles.count: expected {len(agents)} (the agents of {spec.name}) or less")
    number = derived_seed(seed, Purpose.EMBEDDING)  # for torch and scikit-learn
    experience = play_at_random(envs, roles.steps, seed)
    embedding = embed(experience, agents, number)
    clustering = cluster(embedding.mu, roles.count, number)
    return Roles(
        source="learnt", groups=clustering.groups, embedding=embedding, scores=clustering.scores
    )


def _of_types(spec: EnvSpec) -> Groups:
    """Returns a group for each type of unit."""
    if "" in spec.unit_types:
        raise UserError(
            f"roles.source: {spec.name} doesn't tell its agents' types; "
            "choose another source than types"
        )
    return as_groups(spec.unit_types)


def _of_run(path: Path, spec: EnvSpec) -> Groups:
    """Returns the groups that another run had."""
    run = open_run(path)
    key = f"roles.from: {path}"
    # An agent's number means the same in both runs only if they have the same agents.
    agents, groups = (
        _parse_list(run.text(name, ""), f"{key} has no list {name} in /meta")
        for name in ("agents", "groups")
    )
    if agents != list(spec.agents):
        raise UserError(f"{key} is of {_few(agents)}, and not of {_few(spec.agents)}")
    return _checked(groups, len(agents), key)


def _of_checkpoint(path: Path, agents: int) -> Groups:
    """Returns the groups that a checkpoint's nets were learnt in."""
    key = f"train.load: {path}"
    text = str(load(path).values.get("run/groups", ""))
    return _checked(_parse_list(text, f"{key} tells no groups"), agents, key)


def _checked(groups: list[Any], agents: int, key: str) -> Groups:
    """Returns groups read from a file; raises UserError unless each agent is in exactly one."""
    members = [agent for group in groups if isinstance(group, list) for agent in group]
    # Types first: `sorted` fails for a mixture, and True would pass for 1.
    are_numbers = all(type(agent) is int for agent in members)
    if not are_numbers or sorted(members) != list(range(agents)):
        raise UserError(f"{key} has groups that don't hold each of {agents} agents once")
    return tuple(tuple(group) for group in groups if group)


def _parse_list(text: str, problem: str) -> list[Any]:
    """Returns the list that a JSON text holds; raises UserError with `problem` if it holds none."""
    try:
        value = strict_json(text)
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise UserError(f"{problem}; is it of an earlier version?")
    return value


def _few(agents: Sequence[Any]) -> str:
    """Returns the first names of agents, printable, whatever a file has in their place."""
    names = ", ".join(ascii(agent)[:20] for agent in agents[:3])
    more = ", ..." * (len(agents) > 3)
    return f"{len(agents)} agents ({names}{more})"
