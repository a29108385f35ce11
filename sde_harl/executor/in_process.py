"""An executor inside the process of the server, which it hears through the same frames."""

from __future__ import annotations

from sde_harl.executor.executor import Executor
from sde_harl.executor.sensors import NO_SENSOR
from sde_harl.link.loopback import Loopback
from sde_harl.link.transport import Transport


def loopback(sensor: str = NO_SENSOR) -> Transport:
    """Returns a link to one executor inside this process, which holds all agents.

    It carries the same frames as MPI. `sensor` is the one of `Executor`.
    """
    server, far = Loopback.pair()
    executor = Executor(far, sensor)

    def step() -> None:
        for message in far.poll():
            executor.handle(message)

    server.attach(step)
    return server
