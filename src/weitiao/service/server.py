"""uvicorn with an end that loses nothing: what was begun is answered, and so is what was on its way.

On SIGTERM or Ctrl-C: no new connections; every answer says ``Connection: close``; a moment for requests already sent on
open connections; then the wait for those being answered.
"""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say

BACKLOG = 2048
ACCEPT_SECONDS = 0.05  # for connections that the system has accepted already
LINGER_SECONDS = 0.5  # for requests on their way on open connections
DRAIN_SECONDS = 60


def bind(host: str, port: int) -> socket.socket:
    """A socket on an address, taken before models are loaded, so that a taken port is told at once.

    Raises:
        WeitiaoError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        made.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise WeitiaoError(
            say(
                f"Cannot listen on {host}:{port} ({reason}): choose another with --port or --host",
                f"无法监听 {host}:{port}（{reason}）：请用 --port 或 --host 换一个",
            )
        ) from None
    return made


def run(app: FastAPI, listening: socket.socket, drain_seconds: int = DRAIN_SECONDS) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain and return."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=drain_seconds,
        ws="none",
        backlog=BACKLOG,
    )
    # What stands as long as the service need not be looked through again: a full collection holds up every answer.
    gc.collect()
    gc.freeze()
    _Server(config, app).run(sockets=[listening])


class _Server(uvicorn.Server):
    """uvicorn's server, draining as this module's docstring says."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Without the original's last step, which sends the signal again and so ends the process by it."""
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then end."""
        # In this order: told to close while there is still a listener, clients would come back, and some of them would
        # wait in the system's queue when the listener goes.
        await asyncio.sleep(ACCEPT_SECONDS)
        for server in self.servers:
            server.close()
        self._app.state.service.draining = True
        for _ in range(int(LINGER_SECONDS / 0.05)):
            if not self.server_state.connections:
                break
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)
