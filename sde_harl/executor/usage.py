"""Measures what an executor's host uses, for its reports."""

from __future__ import annotations

from sde_harl.link.transport import Transport
from sde_harl.meters.energy import NOTHING, Energy
from sde_harl.meters.network import Network
from sde_harl.meters.process import Process
from sde_harl.protocol.resources import Resources


class HostUsage:
    """The meters of this process and its host, which count from here on."""

    def __init__(self) -> None:
        self._process = Process()
        self._network = Network()
        self.energy = Energy()
        # Not a number until it is measured: the server says for how long.
        self._idle_watts = NOTHING

    def measure_idle(self, idle_s: float) -> None:
        """Measures the idle host's power for `idle_s` seconds, during which it waits."""
        self._idle_watts = self.energy.idle_watts(idle_s)

    def resources(self, transport: Transport, decisions_alone: int) -> Resources:
        """Returns what has been used so far; `decisions_alone` as in `Handler`."""
        process = self._process.sample()
        carried = self._network.sample()
        joules = self.energy.joules()
        traffic = transport.traffic()
        return Resources(
            cpu_s=process.cpu_s,
            rss_bytes=process.rss_bytes,
            peak_rss_bytes=process.peak_rss_bytes,
            sleep_s=transport.waiter.slept_s,
            waits=transport.waiter.sleeps,
            rejected=transport.faults.total,
            alone=decisions_alone,
            sent=traffic.sent,
            received=traffic.received,
            sent_bytes=traffic.sent_bytes,
            received_bytes=traffic.received_bytes,
            carried_sent_bytes=carried.sent_bytes,
            carried_received_bytes=carried.received_bytes,
            carried_sent_packets=carried.sent_packets,
            carried_received_packets=carried.received_packets,
            joules=joules.host,
            gpu_joules=joules.gpu,
            idle_w=self._idle_watts.host,
            gpu_idle_w=self._idle_watts.gpu,
        )
