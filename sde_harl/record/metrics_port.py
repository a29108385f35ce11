"""Gives a run's newest scalars to Prometheus, as text over HTTP, on this host alone."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sde_harl.errors import UserError
from sde_harl.outside.text import printable

HOST = "127.0.0.1"
"""Others ask an agent of this host, such as Prometheus' own, or come through ssh."""
PREFIX = "sde_harl_"
ODD = re.compile(r"[^a-zA-Z0-9_]")
"""What the name of a metric can't have."""


def as_text(scalars: Mapping[str, float], labels: Mapping[str, str]) -> str:
    """Returns scalars in Prometheus' text format; what is unknown (NaN) is left out."""
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    lines = []
    for name, value in scalars.items():
        if not math.isnan(value):
            metric = PREFIX + ODD.sub("_", name)
            lines += [f"# TYPE {metric} gauge", f"{metric}{{{told}}} {float(value)!r}"]
    return "".join(f"{line}\n" for line in lines)


def _escaped(value: str) -> str:
    return printable(value).replace("\\", "\\\\").replace('"', '\\"')


class MetricsPort:
    """Answers GET /metrics from a thread, until it is closed."""

    def __init__(self, port: int, labels: Mapping[str, str]) -> None:
        """Raises UserError where the port can't be had."""
        self._labels = dict(labels)
        self._scalars: dict[str, float] = {}
        try:
            self._server = _Server((HOST, port), _Handler)
        except OSError as error:
            raise UserError(
                f"record.metrics_port: {HOST}:{port} can't be listened on: {error.strerror}"
            ) from error
        self.port: int = self._server.server_address[1]
        thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        thread.start()

    def update(self, scalars: Mapping[str, float]) -> None:
        """Takes the newest scalars; others keep their last value."""
        self._scalars = {**self._scalars, **scalars}
        # One assignment of a whole text: a thread that answers never sees half of it.
        self._server.text = as_text(self._scalars, self._labels)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    text = ""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10
    """Seconds that a client may take to ask."""

    def do_GET(self) -> None:
        body = self.server.text.encode()
        status = HTTPStatus.OK
        if self.path != "/metrics":
            body = b"there is nothing but /metrics\n"
            status = HTTPStatus.NOT_FOUND
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the terminal shows the run."""
