"""pysc2's errors, and its connection to a game."""

from __future__ import annotations

import socket


class ConnectionError(Exception):
    """The game is gone, or has not answered in time."""


class Socket:
    """Has the methods of a WebSocket that pysc2 uses."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))

    def settimeout(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def recv(self) -> bytes:
        return self._socket.recv(64)

    def close(self) -> None:
        self._socket.close()


class Protocol:
    """Sends requests over whatever `_sock` is."""

    def __init__(self, sock: Socket) -> None:
        self._sock = sock

    def ask(self) -> None:
        try:
            self._sock.send(b"?\n")
            answer = self._sock.recv()
        except OSError as error:
            raise ConnectionError(f"Socket error: {error}") from error
        if not answer:
            raise ConnectionError("Connection already closed. SC2 probably crashed.")
