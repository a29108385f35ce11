"""Handlers do an executor's part of a decision: one module for each placement of the policies."""

from __future__ import annotations

from sde_harl.executor.handlers.base import Handler
from sde_harl.executor.handlers.offline import OfflineHandler
from sde_harl.executor.handlers.on_device import OnDeviceHandler
from sde_harl.executor.handlers.sensing import SensingHandler
from sde_harl.executor.handlers.split import SplitHandler
from sde_harl.executor.sensors import Senses
from sde_harl.executor.timings import Timings
from sde_harl.link.transport import Transport
from sde_harl.policy.inference.local_nets import MakeNets
from sde_harl.protocol.session import SessionSpec


def make_handler(
    transport: Transport,
    session: SessionSpec,
    *,
    nets: MakeNets,
    timings: Timings,
    senses: Senses | None,
) -> Handler:
    """Returns the handler for a session.

    `nets` makes local nets; `senses` are the agents' own sensors, if they have any.
    """
    if session.on_device:
        on_device = OnDeviceHandler(
            transport, session, session.on_device, nets=nets, timings=timings
        )
        if senses:
            return SensingHandler(on_device, senses)
        return on_device
    split = SplitHandler(transport, session, nets=nets, timings=timings)
    if senses and session.fallback_head:
        return OfflineHandler(split, senses, session.fallback_head)
    if senses:
        return SensingHandler(split, senses)
    return split
