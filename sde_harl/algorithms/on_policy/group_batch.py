"""A role group's rows of a rollout: what one algorithm's step learns from.

N agents, n of the group, T time, E environments, B = T * E rows, O observation, A outputs of a
head, D numbers of an action, Z latent; V values of a state (1, or N).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from sde_harl.auxiliary.device import Device
from sde_harl.auxiliary.peers import Part, Peers
from sde_harl.buffers.rollout import Rollout
from sde_harl.buffers.sequences import chunk_states, flatten_rows, take_sequences
from sde_harl.policy.group_net import GroupNet, GroupOutput, SubstitutedLatents
from sde_harl.policy.gru import RecurrentState


class Share(NamedTuple):
    """A learner's view of a batch of which it has a part."""

    part: Part
    counted: Tensor
    """Scalar, number of the rows that count, of all learners."""


class GroupBatch(NamedTuple):
    """Rows of one role group, as sequences of `length` rows each."""

    obs: Tensor
    """(n, B, O), normalised."""
    available_actions: Tensor | None
    """(n, B, A) bool, or None where everything always was available."""
    actions: Tensor
    """(n, B, D) int64, or float32 if continuous."""
    log_probs: Tensor
    """(n, B, D) of the policy that acted."""
    active_masks: Tensor
    """(n, B) 1.0 where the row counts."""
    advantages: Tensor
    """(n or 1, B), M: the advantage times the ratios of the groups updated before."""
    recurrent_state: RecurrentState | None = None
    """The memory of the sequences; None if the policy has none."""
    latents: Tensor | None = None
    """(n, B, Z) decoded, that the policy acted on; None where no latent was late."""
    stale: Tensor | None = None
    """(n, B) bool, True where another latent stood in for a late one; None where none was."""
    share: Share | None = None
    """None where these are the rows of all learners."""

    @property
    def part(self) -> Part | None:
        """Returns the place of these rows among those of all learners; None where it has all."""
        return self.share and self.share.part

    @property
    def length(self) -> int:
        """Returns the number of rows in a sequence."""
        return self.recurrent_state.keep.shape[-1] if self.recurrent_state else 1

    def take(self, sequences: slice | Tensor) -> GroupBatch:
        """Returns some of the sequences, or all in another order."""
        taken: dict[str, Any] = {
            name: take_sequences(each, sequences, self.length)
            for name, each in self._asdict().items()
            if isinstance(each, Tensor)
        }
        state = self.recurrent_state and self.recurrent_state.select(sequences)
        return self._replace(**taken, recurrent_state=state)

    def of(self, peers: Peers) -> GroupBatch:
        """Returns a learner's share of the rows."""
        if peers.size == 1:
            return self
        rows = self.actions.shape[1]
        own = peers.own(slice(0, rows // self.length))
        part = Part(rows=slice(own.start * self.length, own.stop * self.length), whole=rows)
        return self.take(own)._replace(share=Share(part, counted=self.active_masks.sum()))

    def on(self, device: Device) -> GroupBatch:
        """Returns the rows on the device that learns; the advantages are there already."""
        if device.is_host:
            return self
        names = [
            name
            for name, each in self._asdict().items()
            if isinstance(each, Tensor) and name != "advantages"
        ]
        state = [*(self.recurrent_state or ())]
        copies = device.put([getattr(self, name) for name in names] + state)
        taken: dict[str, Any] = dict(zip(names, copies))
        if state:
            taken["recurrent_state"] = RecurrentState(*copies[len(names) :])
        return self._replace(**taken)

    def forward(self, net: GroupNet) -> GroupOutput:
        """Runs the group's nets on the rows."""
        substituted = None
        if self.latents is not None and self.stale is not None:
            substituted = SubstitutedLatents(latents=self.latents, stale=self.stale)
        output: GroupOutput = net(self.obs, self.recurrent_state, substituted)
        return output

    def weights(self) -> Tensor:
        """Returns (n, B), the weight of each row in a mean over those that count; they sum to 1."""
        counted = self.share.counted if self.share else self.active_masks.sum()
        return self.active_masks / counted.clamp(min=1.0)


def gather_group(
    rollout: Rollout, net: GroupNet, advantages: Tensor, *, mask_dead: bool
) -> GroupBatch:
    """Returns a group's rows of a rollout.

    advantages: (V, B). mask_dead: rows of dead agents don't count (`algo.policy_active_masks`).
    """
    members = _member_index(net)

    def rows(array: NDArray[Any]) -> Tensor:
        return learnt_rows(array[members], rollout)

    available_actions = rows(rollout.available_actions)
    actions = rows(rollout.actions)
    if not actions.is_floating_point():
        actions = actions.long()  # torch gathers by int64 alone
    # A row whose agent did nothing, for want of a latent, holds no decision of the policy: it never
    # counts.
    counts = rows(rollout.decided)
    if mask_dead:
        counts = rows(rollout.active_masks) & counts
    stale = rows(rollout.stale)
    # A policy that runs on its device acts on latents that no link can delay.
    any_stale = bool(stale.any()) and not net.on_device
    return GroupBatch(
        obs=net.normalise(rows(rollout.obs)),
        # None spares the masking of every logit.
        available_actions=None if available_actions.all() else available_actions,
        actions=actions,
        log_probs=rows(rollout.log_probs),
        active_masks=counts.float(),
        advantages=advantages if len(advantages) == 1 else advantages[members],
        recurrent_state=_recurrent_state(rollout, net),
        latents=rows(rollout.latents) if any_stale else None,
        stale=stale if any_stale else None,
    )


def learnt_rows(array: NDArray[Any], rollout: Rollout) -> Tensor:
    """Returns an array (k, T, E, ...) of the rollout as rows (k, B, ...) without void episodes."""
    rows = flatten_rows(torch.from_numpy(array), rollout.chunk)
    if not rollout.void.any():
        return rows
    valid = torch.from_numpy(rollout.valid_sequences())
    return take_sequences(rows, valid, rollout.chunk)


def _recurrent_state(rollout: Rollout, net: GroupNet) -> RecurrentState | None:
    """Returns the memory that the group's sequences begin with, or None if the policy has none."""
    if not net.gru:
        return None
    memory = torch.from_numpy(rollout.memory[_member_index(net)])  # (n, T / L, E, H)
    state = chunk_states(memory, rollout.ended, rollout.chunk)
    if rollout.void.any():
        state = state.select(torch.from_numpy(rollout.valid_sequences()))
    return state


def _member_index(net: GroupNet) -> slice | list[int]:
    """Returns an index of the group's agents: for one agent a slice, which numpy doesn't copy."""
    if len(net.members) == 1:
        return slice(net.members[0], net.members[0] + 1)
    return list(net.members)
