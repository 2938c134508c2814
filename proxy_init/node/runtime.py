"""The connection to the container runtime: we register, and then answer its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from ..errors import ProxyInitError
from ..log import logger
from . import wire
from .nri_pb2 import RegisterPluginRequest, Request, Response, Status

PLUGIN_NAME = "proxy-init"
_SERVICE = "nri.pkg.api.v1alpha1"
_UNKNOWN, _INVALID, _UNIMPLEMENTED, _INTERNAL = 2, 3, 12, 13  # codes of google.rpc
_REGISTRATION = 1
"""The number of our one call."""
_TIME_LIMIT = 2.0
"""Seconds in which the runtime wants an answer, where it does not say: NRI's default."""

M = TypeVar("M", bound=Message)
Handler = Callable[[str, bytes, float], Awaitable[Message]]
"""Answers a call: the method, what it is called with, and the seconds that there are for it."""


class Refused(ProxyInitError):
    """The runtime does not take us."""


class Runtime:
    """A connection to the runtime's NRI socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._answering: set[asyncio.Task[None]] = set()

    @classmethod
    async def connect(cls, path: str) -> Runtime:
        """Connect to the socket at `path`. Raises OSError."""
        return cls(*await asyncio.open_unix_connection(path))

    def fileno(self) -> int:
        """The socket's descriptor."""
        return int(self._writer.get_extra_info("socket").fileno())

    async def serve(self, index: str, handler: Handler) -> None:
        """Register under an index, and answer calls until the runtime ends the connection.

        Cancelled, it takes no more calls, and ends when all that it has taken are answered.
        Raises OSError, BadMessage or Refused.
        """
        request = RegisterPluginRequest(plugin_name=PLUGIN_NAME, plugin_idx=index)
        call = Request(
            service=f"{_SERVICE}.Runtime",
            method="RegisterPlugin",
            payload=request.SerializeToString(),
        )
        self._send(wire.CALLS_TO_RUNTIME, _REGISTRATION, wire.REQUEST, call)
        decoder = wire.Decoder()
        try:
            while data := await self._reader.read(1 << 16):
                for message in decoder.feed(data):
                    self._take(message, handler)
        finally:
            if self._answering:
                await asyncio.wait(self._answering)

    def close(self) -> None:
        """End the connection."""
        self._writer.close()

    def _take(self, message: wire.Message, handler: Handler) -> None:
        if message.kind == wire.REQUEST and message.connection == wire.CALLS_TO_US:
            task = asyncio.create_task(self._answer(message, handler))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif message.kind == wire.RESPONSE and message.connection == wire.CALLS_TO_RUNTIME:
            status = parsed(Response(), message.payload).status
            if status.code:
                raise Refused(f"the runtime refuses the plugin: {status.message[:300]}")

    async def _answer(self, message: wire.Message, handler: Handler) -> None:
        response = Response()
        try:
            request = parsed(Request(), message.payload)
            if request.service != f"{_SERVICE}.Plugin":
                raise NotImplementedError
            seconds = request.timeout_nano / 1e9 if request.timeout_nano > 0 else _TIME_LIMIT
            answer = await handler(request.method, request.payload, seconds)
            response.payload = answer.SerializeToString()
        except NotImplementedError:
            response = _failure(_UNIMPLEMENTED, "unknown method")
        except wire.BadMessage as error:
            response = _failure(_INVALID, str(error))
        except ProxyInitError as error:
            response = _failure(_UNKNOWN, str(error))
        except Exception as bug:
            logger.error("this is a bug in proxy-init, please report it: %r", bug)
            words = f"this is a bug in proxy-init, please report it: {bug!r}"[:300]
            response = _failure(_INTERNAL, words)
        self._send(wire.CALLS_TO_US, message.call, wire.RESPONSE, response)

    def _send(self, connection: int, call: int, kind: int, content: Message) -> None:
        payload = content.SerializeToString()
        self._writer.write(wire.encode(wire.Message(connection, call, kind, payload)))


def _failure(code: int, text: str) -> Response:
    # What can't be written as UTF-8 must not keep the answer back.
    return Response(status=Status(code=code, message=text.encode(errors="replace").decode()))


def parsed(message: M, payload: bytes) -> M:
    """Read a message. Raises BadMessage."""
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        kind = message.DESCRIPTOR.name
        raise wire.BadMessage(f"the runtime sent a {kind} that can't be read: {error}") from error
    return message
