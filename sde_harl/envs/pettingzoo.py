"""Any parallel environment of PettingZoo: a function of the user's makes it.

* Rewards: the team's is the mean over all agents; an agent that has left counts 0.
* Ends: an agent that leaves early is inactive from then on; the episode is over when all have left.
  If one terminates and another is truncated in the last step, the episode is truncated: the agent
  that was cut off would have gone on to earn, and only a truncated episode's return is completed by
  the critic's value of the last state, in which the other agent is seen to be gone already.
* Observations: a Dict with "observation" and "action_mask" says what is available, or else
  infos[agent]["action_mask"]. A Box of three dimensions is an image; its channels are the last
  dimension, or the first if that is the smallest. Images of bytes stay bytes if all agents'
  observations are such. All else is flattened as gymnasium flattens it.
* An agent whose mask leaves it nothing (it isn't in turn) does its first choice and is inactive in
  that step: it made no decision.
* Actions: Box actions are clipped to their bounds; those of whole numbers are rounded to them.
* State: the environment's own if it has one, else the agents' observations one after the other (of
  images of one shape: one upon the other, as channels).
* Names: a slash in an agent's name is written %2F, because records keep an agent under its name.

`parallel_protocol` calls the environment and checks what it returns.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sde_harl.config.entry_points import function
from sde_harl.config.wording import brief
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.parallel_protocol import Origin, ParallelProtocol, Seen
from sde_harl.envs.parallel_spaces import (
    MASK,
    Bounds,
    MisfitError,
    StateLayout,
    action_bounds,
    action_columns,
    action_ranges,
    action_sizes,
    are_all_continuous,
    has_mask,
    joined_image,
    mask_row,
    obs_images,
    obs_row,
    seen_space,
    state_layout,
    to_native,
    to_row,
)
from sde_harl.envs.settings import EnvConfig
from sde_harl.envs.vector.games import Game, ObservationBuffers, Outcome
from sde_harl.errors import UserError

if TYPE_CHECKING:
    from sde_harl.drawing.canvas import Colour, Picture

KEY = "env.factory"


class ParallelGame(Game):
    """One parallel environment. Raises UserError for whatever is wrong with it."""

    seed_bits = 31  # many environments seed generators that take no more than 32 bits

    def __init__(self, env: Any, name: str, *, origin: Origin, episode_limit: int = 0) -> None:
        self._origin = origin
        self._env = env
        self._protocol = ParallelProtocol(env, origin)
        self._agents = self._protocol.agents
        given = [self._protocol.space("observation_space", agent) for agent in self._agents]
        self._has_mask = [has_mask(space) for space in given]
        self._obs_spaces = [self._checked(i, seen_space, space) for i, space in enumerate(given)]
        self._action_spaces = [
            self._protocol.space("action_space", agent) for agent in self._agents
        ]
        sizes = [self._checked(i, action_sizes, each) for i, each in enumerate(self._action_spaces)]
        try:
            is_continuous = are_all_continuous(self._action_spaces)
        except MisfitError as misfit:
            raise origin.error(misfit.expected, misfit.got) from None
        self._protocol.reset(seed=0)  # some environments know their state only after a reset
        self._first_state = self._protocol.state()
        self.spec = self._make_spec(
            name, tuple(sizes), episode_limit=episode_limit, is_continuous=is_continuous
        )
        self._bounds: Bounds | None = None
        if is_continuous:
            self._bounds = action_bounds(self._action_spaces, len(self.spec.branches))
        branches = self.spec.branches
        self._columns = [action_columns(each, branches) for each in self.spec.action_sizes]
        self._choices = self.spec.choices()
        self._was_masked = [False] * len(self._agents)
        self._begins = np.cumsum((0, *branches))[:-1]  # (D,) where each branch begins among the A

    def _checked(self, i: int, read: Any, space: Any) -> Any:
        """Returns `read(space)` of agent i. Raises UserError that names the agent."""
        try:
            return read(space)
        except MisfitError as misfit:
            agent = f", space of {brief(self._agents[i])}"
            raise self._origin.error(misfit.expected, misfit.got, agent) from None

    def _make_spec(
        self,
        name: str,
        sizes: tuple[tuple[int, ...], ...],
        *,
        episode_limit: int,
        is_continuous: bool,
    ) -> EnvSpec:
        obs_sizes = tuple(spaces.flatdim(space) for space in self._obs_spaces)
        images = obs_images(self._obs_spaces)
        obs_dtype = "float32"
        if images and all(space.dtype == np.uint8 for space in self._obs_spaces):
            obs_dtype = "uint8"
        if self._first_state is not None:
            state = state_layout(self._first_state)
        else:
            state = StateLayout(size=sum(obs_sizes), image=joined_image(images), dtype=obs_dtype)
        return EnvSpec(
            name=name,
            agents=agent_names(self._agents, self._origin),
            obs_sizes=obs_sizes,
            action_sizes=sizes,
            state_size=state.size,
            episode_limit=episode_limit,
            continuous=is_continuous,
            unit_types=tuple(re.sub(r"_?\d+$", "", str(agent)) for agent in self._agents),
            has_win=False,
            obs_images=images,
            obs_dtype=obs_dtype,
            state_image=state.image,
            state_dtype=state.dtype,
            action_bounds=action_ranges(self._action_spaces),
        )

    def reset(self, seed: int, out: ObservationBuffers) -> None:
        self._write(self._protocol.reset(seed), out)

    def step(self, actions: NDArray[np.generic], out: ObservationBuffers) -> Outcome:
        stepped = self._protocol.step(self._native(actions))
        self._write(stepped.seen, out)
        return Outcome(
            reward=stepped.reward / len(self._agents),
            terminated=stepped.is_over and not stepped.is_cut,
            truncated=stepped.is_over and stepped.is_cut,
        )

    def picture(self, colours: Sequence[Colour]) -> Picture | None:
        """Returns the environment's own picture; None where its `render()` returns none."""
        return self._protocol.render()

    def close(self) -> None:
        self._protocol.close()

    def _native(self, actions: NDArray[np.generic]) -> dict[Any, Any]:
        """Returns the actions (N, D) as the environment's own, by agent."""
        if self._bounds is not None:
            actions = self._bounds.nearest(actions)
        native = {
            agent: to_native(action, space)
            for agent, action, space in zip(self._agents, actions, self._action_spaces)
        }
        # PettingZoo takes no actions of agents that have left. The others' go in the order of the
        # environment's own list, on which some environments rely.
        return {agent: native[agent] for agent in self._protocol.acting}

    # The vector's check of all numbers says it of those that are too large for float32.
    @np.errstate(over="ignore")
    def _write(self, seen: Seen, out: ObservationBuffers) -> None:
        """Writes what the environment returned; an agent that has left sees zeros."""
        for i, agent in enumerate(self._agents):
            out.active[i] = agent in seen.alive
            if agent not in seen.obs:
                out.obs[i] = 0
                self._write_mask(i, None, out)
                continue
            try:
                self._write_agent(i, seen.obs[agent], seen.infos.get(agent), out=out)
            except MisfitError as misfit:
                place = f", observation of {brief(agent)}"
                raise self._origin.error(misfit.expected, misfit.got, place) from None
        if self._first_state is not None:
            out.state[:] = to_row(self._protocol.state_like(self._first_state))
        else:
            out.state[:] = self._joined(out)

    def _write_agent(self, i: int, seen: Any, info: Any, *, out: ObservationBuffers) -> None:
        mask = None
        if self._has_mask[i]:
            if not isinstance(seen, Mapping) or not {"observation", MASK} <= set(seen):
                raise MisfitError(f"a dict of observation and {MASK}", brief(seen))
            mask = seen[MASK]
            seen = seen["observation"]
        elif info is not None:
            if type(info) is not dict and not isinstance(info, Mapping):
                raise MisfitError("a dict of infos", brief(info))
            mask = info.get(MASK)
        self._write_mask(i, mask, out)
        row = obs_row(self._obs_spaces[i], seen)
        out.obs[i, : len(row)] = row

    def _write_mask(self, i: int, mask: Any, out: ObservationBuffers) -> None:
        """Writes what an agent may choose; without a mask, all that it has."""
        # An agent that never had a mask has all of its choices in all buffers.
        if mask is None and not self._was_masked[i]:
            return
        self._was_masked[i] = True
        available = out.available_actions[i]
        available[:] = self._choices[i]
        if mask is None:
            return
        if self.spec.continuous:
            raise MisfitError(f"no {MASK}, for actions are continuous", brief(mask))
        available[self._columns[i]] = mask_row(mask, size=len(self._columns[i]))
        has_choice = np.logical_or.reduceat(available, self._begins)  # (D,)
        if not has_choice.all():
            available[self._begins[~has_choice]] = True
        if not has_choice[: len(self.spec.action_sizes[i])].any():
            out.active[i] = False

    def _joined(self, out: ObservationBuffers) -> NDArray[Any]:
        """Returns the observations just written as one state (S,)."""
        if self.spec.state_image:
            height, width, _ = self.spec.state_image
            images = out.obs.reshape(len(out.obs), height, width, -1)  # (N, H, W, C)
            joined: NDArray[Any] = np.concatenate(images, -1).ravel()
            return joined
        return np.concatenate([row[:size] for row, size in zip(out.obs, self.spec.obs_sizes)])


def agent_names(agents: Sequence[Any], origin: Origin) -> tuple[str, ...]:
    """Returns the agents' names as records keep them, in which a slash would begin a folder.

    Raises UserError for names that are empty or equal as text.
    """
    names = tuple(map(_escaped, map(str, agents)))
    if "" in names or len(set(names)) < len(names):
        raise origin.error("agents whose names differ as text, none of them empty", brief(agents))
    return names


def _escaped(name: str) -> str:
    if name == ".":  # HDF5's word for the group itself
        return "%2E"
    return "".join(
        letter if letter.isprintable() and letter not in "/%" else quote(letter, safe="")
        for letter in name.encode("utf-8", "replace").decode()
    )


# By the id of the innermost object, which the game keeps alive: no other can have it meanwhile.
_in_play: weakref.WeakValueDictionary[int, ParallelGame] = weakref.WeakValueDictionary()


def make_game(env_config: EnvConfig) -> ParallelGame:
    """Makes one game.

    Raises UserError if there is no such factory, or if it makes something else.
    """
    origin = Origin(key=KEY, spelt=env_config.factory)
    factory = function(KEY, env_config.factory)
    with origin.explained("the call"):
        env = factory()
        # Wrappers may be new around the same environment.
        core = getattr(env, "unwrapped", None) or env
    _check_kind(env, origin)
    if id(core) in _in_play:
        raise origin.error("a new environment at each call", "the same object twice")
    game = ParallelGame(env, "pettingzoo/" + env_config.factory.replace(":", "."), origin=origin)
    _in_play[id(core)] = game
    return game


def _check_kind(env: Any, origin: Origin) -> None:
    """Raises UserError where `env` is no parallel environment."""
    if hasattr(env, "agent_iter"):
        raise origin.error(
            "a parallel environment",
            "an AEC environment",
            "; pettingzoo.utils.conversions.aec_to_parallel makes one of it",
        )
    for name in ("possible_agents", "observation_space", "action_space", "reset", "step"):
        if isinstance(env, type) or not hasattr(env, name):
            raise UserError(
                f"{origin.key}: {origin.spelt} made a {type(env).__name__}, "
                "not a parallel environment"
            )
