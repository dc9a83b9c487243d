"""The local web server of the labelling page: this machine only, and only for who has the page's secret.

The secret stands behind the ``#`` of the address, which browsers neither send nor log; the page sends it in a header
of its own, which a page from elsewhere cannot. The Host header is checked too, against names that were made to
point here.
"""

import hmac
import json
import secrets
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.labelling.page import HEADERS, page
from weitiao.labelling.session import Session

HOST = "127.0.0.1"
HEADER = "X-Weitiao-Token"
MOST_BYTES = 64_000  # of a request: a label and a note
DRAINED = 1_000_000  # of a request that is too large: a reset connection would hide the answer
MOST_NOTE = 2000


class Server:
    """Serves a session in threads of its own, from ``with`` to its end.

    Args:
        port: 0 takes a free one.
        tell: called after each answer.
    """

    def __init__(self, session: Session, port: int, tell: Callable[[], None] = lambda: None) -> None:
        self.session, self.tell, self.token = session, tell, secrets.token_urlsafe(24)
        handler = type("Handler", (_Handler,), {"owner": self})
        try:
            self.http = _Http((HOST, port), handler)
        except OSError as error:
            raise WeitiaoError(
                say(
                    f"Port {port} is not free ({error.strerror}): choose another --port, or 0 for any",
                    f"端口 {port} 不可用（{error.strerror}）：请换一个 --port，或用 0 任选",
                )
            ) from None
        self.port = self.http.server_address[1]

    @property
    def address(self) -> str:
        """What to open, with the secret."""
        return f"http://{HOST}:{self.port}/#{self.token}"

    def __enter__(self) -> "Server":
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.1,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def call(self, method: str, path: str, given: dict[str, Any]) -> dict[str, Any]:
        """One call of the page. Every answer is the new state.

        Raises:
            WeitiaoError: the request is not one that the page makes.
        """
        session = self.session
        if (method, path) == ("POST", "/answer"):
            row, label, note, seconds = (given.get(key) for key in ("row", "label", "note", "seconds"))
            sound = type(row) is int and isinstance(label, str) and isinstance(note, str)
            if not sound or len(str(note)) > MOST_NOTE or not isinstance(seconds, int | float):
                raise WeitiaoError(say("Not an answer", "请求格式不对"))
            session.answer(row, label, note, min(max(float(seconds), 0.0), 1e6))  # type: ignore[arg-type]
        elif (method, path) == ("POST", "/undo"):
            session.undo()
        elif (method, path) != ("GET", "/state"):
            raise LookupError(path)
        if method == "POST":
            self.tell()
        return session.state()


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that was closed while it waited is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    owner: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "Weitiao", ""
    timeout = 60

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/" and self._from_here():
            self._send(200, page().encode(), "text/html; charset=utf-8")
        else:
            self._call("GET", path, {})

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if not (size.isascii() and size.isdecimal()) or int(size) > MOST_BYTES:
            self.rfile.read(min(int(size), DRAINED) if size.isascii() and size.isdecimal() else 0)
            self.close_connection = True
            self._error(413, say("The request is too large", "请求过大"))
            return
        body = self.rfile.read(int(size))
        try:
            given = json.loads(body)
        except ValueError:
            given = None
        if not isinstance(given, dict):
            self._error(400, say("Not JSON", "不是 JSON"))
            return
        self._call("POST", urlsplit(self.path).path, given)

    def _call(self, method: str, path: str, given: dict[str, Any]) -> None:
        sent = self.headers.get(HEADER, "")
        if not self._from_here() or not hmac.compare_digest(sent.encode(), self.owner.token.encode()):
            self._error(403, say("Open the address that the command printed", "请打开命令输出的地址"))
            return
        try:
            answer = self.owner.call(method, path, given)
        except WeitiaoError as error:
            self._error(422, str(error))
        except LookupError:
            self._error(404, say("There is nothing here", "没有此页"))
        except OSError as error:  # a full disk: the page keeps the text until the answer can be kept
            self._error(500, say(f"Not kept: {error.strerror}", f"未能保存：{error.strerror}"))
        else:
            self._send(200, _json(answer), "application/json")

    def _from_here(self) -> bool:
        """Whether the browser thinks that it talks to this very machine and port."""
        return self.headers.get("Host", "") in {f"{name}:{self.owner.port}" for name in (HOST, "localhost")}

    def _error(self, status: int, message: str) -> None:
        self._send(status, _json({"error": message}), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: a request holds an answer."""


def _json(value: Any) -> bytes:
    """JSON as bytes; half a surrogate pair, which UTF-8 cannot hold, becomes its escape."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")
