"""Shows a run's state as a page that loads itself anew, by the standard library's server.

It answers GET of one path and nothing else. The page has no script.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from sde_harl.errors import UserError
from sde_harl.live.state import State
from sde_harl.live.tables import AGENTS, NOTE, agent_cells, fault_line, progress_line, warning
from sde_harl.report.page import Html, card, heading, page, paragraph, table, tag

EVERY_S = 2
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")


def state_page(state: State) -> str:
    """Returns the page of a state."""
    bar = f'<progress max="1" value="{state.share:.4f}" style="width:100%"></progress>'
    cards = [card(name, value, []) for name, value in state.results.items()]
    body = [heading(state.title, 1), paragraph(progress_line(state)), Html(bar)]
    if warning(state):
        body.append(paragraph(warning(state)))
    body.append(tag("div", Html("".join(cards)), "cards small"))
    body.append(table(AGENTS, [agent_cells(each) for each in state.agents]))
    body += [paragraph(NOTE, "soft"), paragraph(fault_line(state)), paragraph(state.folder, "soft")]
    return page(state.title, body, reload_s=EVERY_S)


class Server(ThreadingHTTPServer):
    """Serves the page on a host and port.

    A host that is not this one's own loopback gets a token, without which nothing is shown.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, read: Callable[[], State]) -> None:
        """`read` gives the state. Raises UserError where the host or the port can't be had."""
        self.read = read
        self.token = ""
        if not _is_loopback(host):
            self.token = secrets.token_urlsafe(16)
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--web: {host}:{port}: can't be listened on: {reason}") from error

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        query = ""
        if self.token:
            query = f"?token={self.token}"
        return f"http://{host!s}:{port}/{query}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 10
    """Seconds that a client may take to ask."""

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if not self._is_allowed(parse_qs(asked.query)):
            self._answer(HTTPStatus.FORBIDDEN, "the token of the address is missing or wrong\n")
        elif asked.path != "/":
            self._answer(HTTPStatus.NOT_FOUND, "there is nothing but /\n")
        else:
            try:
                content = state_page(self.server.read())
            except UserError as error:
                message = [paragraph(f"The record can't be read just now: {error}")]
                content = page("sde-harl live", message, reload_s=EVERY_S)
            self._answer(HTTPStatus.OK, content, kind="text/html")

    def _is_allowed(self, query: dict[str, list[str]]) -> bool:
        if self.server.token:
            given = query.get("token", [""])[0]
            return hmac.compare_digest(given.encode(), self.server.token.encode())
        # Another site's page could reach this one by a name of its own that leads here.
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        return host in LOCAL_NAMES

    def _answer(self, status: HTTPStatus, content: str, kind: str = "text/plain") -> None:
        body = content.encode()
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the terminal shows the run."""
