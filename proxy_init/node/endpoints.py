"""What others may ask the agent: Prometheus and probes over HTTP, `node pods` through a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from ..errors import ApplyFailed
from ..log import logger
from .metrics import CONTENT_TYPE, Metrics
from .reconciler import Reconciler

_SECONDS = 5
_MOST_BYTES = 8192
"""Of a request."""
_MOST_CONNECTIONS = 32


def pods_socket(nri_socket: str) -> str:
    """The name of the abstract socket on which the agent of a runtime lists its pods. It is within
    the reach of the agent's network namespace alone, and leaves nothing in a file system."""
    return f"\0proxy-init-node:{nri_socket}"


class Endpoints:
    """The servers of the agent."""

    def __init__(self, metrics: Metrics, reconciler: Reconciler) -> None:
        self.is_ready = False
        self._metrics = metrics
        self._reconciler = reconciler
        self._servers: list[asyncio.Server] = []
        self._connections = 0

    async def open(self, nri_socket: str, http_port: int | None) -> None:
        """Begin to listen. Raises ApplyFailed."""
        try:
            name = pods_socket(nri_socket)
            self._servers.append(await asyncio.start_unix_server(self._list_pods, name))
        except OSError as error:  # another agent in this network namespace
            logger.warning("node pods will not find this agent: %s", error.strerror)
        if http_port is None:
            return
        try:
            server = await asyncio.start_server(self._respond, port=http_port, limit=_MOST_BYTES)
        except OSError as error:
            raise ApplyFailed(f"--http-port: {error.strerror or error}") from error
        self._servers.append(server)

    def close(self) -> None:
        """Listen no more."""
        for server in self._servers:
            server.close()

    def files(self) -> Sequence[int]:
        """The descriptors of the listening sockets."""
        return [socket.fileno() for server in self._servers for socket in server.sockets]

    async def _list_pods(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._send(writer, json.dumps(self._reconciler.listing()).encode())

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= _MOST_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections += 1
        try:
            await self._answer(reader, writer)
        finally:
            self._connections -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.close()
            return
        status, kind, body = self._content(head.split(b"\r\n", 1)[0].split(b" "))
        lines = (
            f"HTTP/1.1 {status}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        await self._send(writer, "\r\n".join((*lines, "", "")).encode() + body)

    def _content(self, words: Sequence[bytes]) -> tuple[str, str, bytes]:
        """The status, the type and the body for a request's first line."""
        text = "text/plain; charset=utf-8"
        if len(words) != 3 or words[0] != b"GET":
            return "405 Method Not Allowed", text, b"GET only\n"
        match words[1].partition(b"?")[0]:
            case b"/metrics":
                return "200 OK", CONTENT_TYPE, self._metrics.text(self._reconciler.counts())
            case b"/healthz":
                return "200 OK", text, b"ok\n"
            case b"/readyz" if self.is_ready:
                return "200 OK", text, b"connected to the runtime\n"
            case b"/readyz":
                return "503 Service Unavailable", text, b"not connected to the runtime\n"
        return "404 Not Found", text, b"/metrics, /healthz, /readyz\n"

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        try:
            writer.write(data)
            async with asyncio.timeout(_SECONDS):
                await writer.drain()
        except (TimeoutError, OSError):
            writer.transport.abort()
        else:
            writer.close()
