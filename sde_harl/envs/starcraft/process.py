"""How the game is started: a run configuration of pysc2's, which the unmodified clients pick up.

pysc2 starts the game by the subclass of RunConfig that has the highest priority. This one gives
the game a port that no other process of the host takes, kills it when this process dies, and sets
a limit to how long an answer is waited for.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import Any

from pysc2.lib import sc_process
from pysc2.run_configs import platforms

from sde_harl.envs import die_with_parent

LAUNCH_TIMEOUT_S = 180
"""For the game to start and load the map: slow network disks need a minute or more."""
ANSWER_TIMEOUT_S = 60
"""For one step or one reset. A game at work answers within a second."""
FIRST_PORT = 15000
PORTS = 15000
"""Ports from FIRST_PORT on: below those that Linux gives to outgoing connections."""

# The clients and pysc2 have no types.
_Process: Any = sc_process.StarcraftProcess
_Linux: Any = platforms.Linux


class PortLease:
    """A free TCP port that no other process on this host leases as long as this object lives.

    A port that is merely found free may be taken by another game before the new one listens.
    """

    def __init__(self) -> None:
        for offset in range(PORTS):
            # Processes begin at different ports, so that they seldom ask for the same one.
            self.port = FIRST_PORT + (os.getpid() * 31 + offset) % PORTS
            if self._take() and _is_free(self.port):
                return
            self.end()
        raise OSError(f"none of the ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} is free")

    def end(self) -> None:
        """Gives the port back."""
        self._lock.close()

    def _take(self) -> bool:
        # A Unix socket in the abstract namespace is a lock by name: the kernel frees it with the
        # process, and it is no file that could be left behind.
        self._lock = socket.socket(socket.AF_UNIX)
        try:
            self._lock.bind(f"\0sde_harl-port-{self.port}")
        except OSError:
            return False
        return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class TimedSocket:
    """The connection to a game, with a time by which everything must have been answered."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.allow(LAUNCH_TIMEOUT_S)

    def allow(self, seconds: float) -> None:
        """Lets all that is asked from now on take so long together."""
        self._end = time.monotonic() + seconds

    def send(self, data: bytes) -> Any:
        """Sends a request."""
        return self._connection.send(data)

    def recv(self) -> Any:
        """Returns an answer. Raises TimeoutError, which pysc2 takes for a lost connection."""
        left = self._end - time.monotonic()
        # Not only for a game that is silent: the clients also wait, in endless loops, for units
        # that never appear.
        if left <= 0:
            raise TimeoutError("no answer in time")
        self._connection.settimeout(left)
        return self._connection.recv()

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


class GameProcess(_Process):  # type: ignore[misc]  # the base has no types
    """A game that is running."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._lease = PortLease()
        super().__init__(
            *arguments, port=self._lease.port, timeout_seconds=LAUNCH_TIMEOUT_S, **keywords
        )
        client = self._controller._client
        self.socket = TimedSocket(client._sock)
        client._sock = self.socket

    def _launch(self, run_config: Any, args: list[str], **_: Any) -> subprocess.Popen[bytes]:
        launcher = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        return subprocess.Popen(
            [*launcher, *args],
            cwd=run_config.cwd,
            env=run_config.env,
            stdout=subprocess.DEVNULL,  # it reports every phase of its start
            start_new_session=True,  # signals to the terminal's processes are ours to answer
        )

    def kill(self) -> None:
        """Ends the game at once, in whatever state it is, and cleans up after it."""
        if self._proc:
            self._proc.kill()
            self._proc.wait()
        self.close()

    def close(self) -> None:
        """Ends the game."""
        super().close()
        self._lease.end()


class RunConfig(_Linux):  # type: ignore[misc]  # the base has no types
    """Starts games as `GameProcess`."""

    @classmethod
    def priority(cls) -> int:
        """Returns more than pysc2's own configurations do, which is 1."""
        return 2

    def start(self, want_rgb: bool = False, **keywords: Any) -> GameProcess:
        """Starts a game and waits until it answers."""
        build = f"Versions/Base{self.version.build_version:05d}"
        binary = os.path.join(self.data_dir, build, self._exec_name)
        return GameProcess(self, exec_path=binary, version=self.version, **keywords)
