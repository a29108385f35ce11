"""pysc2's process: it starts the binary and connects to it."""

from __future__ import annotations

import subprocess
import time
from types import SimpleNamespace
from typing import Any

from pysc2.lib import protocol


class SC2LaunchError(Exception):
    """The game could not be started."""


class Controller:
    """Asks the game things."""

    def __init__(self, sock: protocol.Socket) -> None:
        self._client = protocol.Protocol(sock)

    def observe(self) -> None:
        self._client.ask()

    def save_replay(self) -> bytes:
        self._client.ask()
        return b"replay"

    def ping(self) -> Any:
        return SimpleNamespace(game_version="4.10.0.75689")


class StarcraftProcess:
    """A game, started by `_launch`."""

    def __init__(
        self,
        run_config: Any,
        exec_path: str,
        version: Any,
        *,
        port: int,
        timeout_seconds: int,
        **keywords: Any,
    ) -> None:
        self._controller: Controller | None = None
        self._proc: subprocess.Popen[bytes] | None = None
        args = [exec_path, "-listen", "127.0.0.1", "-port", str(port)]
        self._proc = self._launch(run_config, args)
        self._controller = Controller(self._connect(port))

    def _connect(self, port: int) -> protocol.Socket:
        while self._proc is not None and self._proc.poll() is None:
            try:
                return protocol.Socket(port)
            except OSError:
                time.sleep(0.005)
        self.close()
        raise SC2LaunchError("SC2 isn't running")

    def _launch(self, run_config: Any, args: list[str], **keywords: Any) -> Any:
        raise NotImplementedError("here the real one starts the game, bound to nobody's life")

    @property
    def controller(self) -> Controller | None:
        return self._controller

    @property
    def pid(self) -> int | None:
        return self._proc and self._proc.pid

    def close(self) -> None:
        if self._controller:
            self._controller._client._sock.close()
            self._controller = None
        if self._proc:
            self._proc.terminate()
            self._proc.wait()
            self._proc = None
