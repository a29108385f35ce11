"""A game that answers every line with a line: enough to be started, killed and stopped."""

from __future__ import annotations

import socket
import sys

server = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("-port") + 1])))
connection, _ = server.accept()
for line in connection.makefile("rb"):
    connection.sendall(line)
