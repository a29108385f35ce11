"""A policy that runs on its device, from the observation to the action; only actions are sent up.

It is the local net with all blocks, the GRU if it is recurrent, and the agent's head. Actions are
drawn by seed, step, environment and agent alone, so that an agent decides the same whichever device
it is on and whichever agents are beside it.

n agents of one executor, E environments, W width of a block, H memory, A outputs of a head, D
numbers of an action.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from sde_harl.draws.counters import Draw
from sde_harl.policy.inference.acting import Decision
from sde_harl.policy.inference.arrays import BoolArray, FloatArray
from sde_harl.policy.inference.local_nets import LocalNets, MakeNets, split_above
from sde_harl.policy.inference.unflatten import policy_behind
from sde_harl.policy.shapes import LocalShape, OnDeviceShape, on_device_parameter_shapes


class OnDevicePolicy:
    """The policies of an executor's agents, stacked. The caller keeps their memory."""

    def __init__(
        self,
        *,
        shape: LocalShape,
        on_device: OnDeviceShape,
        weights: FloatArray,
        nets: MakeNets = LocalNets,
    ) -> None:
        """`weights`: float32 vector of all parameters in wire order; `nets` makes the local nets.

        Raises ValueError where the vector's length or a value is not right.
        """
        above = on_device_parameter_shapes(shape, on_device)
        of_local, parts = split_above(shape, above, weights)
        self._local = nets(shape, of_local, on_device=True)
        # It is the same class as at the server. Its trunk is empty, since the local net has all
        # blocks.
        self._upper = policy_behind(parts, on_device, layer_norm=shape.layer_norm)

    def act(
        self,
        obs: NDArray[Any],
        available: BoolArray,
        draw: Draw | None,
        memory: FloatArray | None = None,
    ) -> Decision:
        """Decides on observations (n, E, O); takes the most likely actions where `draw` is None.

        available (n, E, A) bool; memory (n, E, H) as the last decision left it, None where nothing
        is remembered or the policy is not recurrent.
        """
        return self._upper.act(self._local(obs), available, draw, memory)
