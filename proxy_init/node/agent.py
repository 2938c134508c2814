"""The agent: stays connected to the container runtime, and answers its calls."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Sequence

from google.protobuf.message import Message

from ..errors import ProxyInitError
from ..frozen import Frozen
from ..log import logger
from . import work
from .endpoints import Endpoints
from .metrics import Metrics
from .nri_pb2 import (
    CREATE_CONTAINER,
    REMOVE_POD_SANDBOX,
    RUN_POD_SANDBOX,
    ConfigureRequest,
    ConfigureResponse,
    ContainerAdjustment,
    CreateContainerRequest,
    CreateContainerResponse,
    Empty,
    PodRequest,
    PodSandbox,
    StateChangeEvent,
    SynchronizeRequest,
    SynchronizeResponse,
)
from .pods import NOTE, Container, container_of, pod_of
from .reconciler import Reconciler
from .runtime import Runtime, parsed

_OF_THE_LIMIT = 0.5
"""The part of the runtime's time limit that work may take. The runtime waits no longer than that
limit, and then starts the pod without its rules; and on a busy machine it may be half a second
before we learn of its call."""
_EVENTS = (RUN_POD_SANDBOX, REMOVE_POD_SANDBOX, CREATE_CONTAINER)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts to connect. While we are away, pods may start without us."""


class Options(Frozen):
    """How to run: the runtime's socket, our place among its plugins, the port for metrics and
    probes or None, and flags for pods whose annotations do not say otherwise."""

    nri_socket: str
    plugin_index: str
    http_port: int | None
    defaults: tuple[str, ...]


def run(options: Options) -> None:
    """Run until SIGTERM or SIGINT; then finish what has begun. The rules stay."""
    work.load()
    asyncio.run(Agent(options).run())


class Agent:
    """The agent of one node."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._metrics = Metrics()
        self._reconciler = Reconciler(options.defaults, self._metrics, self._own_files)
        self._endpoints = Endpoints(self._metrics, self._reconciler)
        self._runtime: Runtime | None = None
        self._arriving: tuple[list[PodSandbox], dict[str, list[Container]]] = ([], {})

    async def run(self) -> None:
        """Run until a signal ends it. Raises ApplyFailed where it can't listen."""
        serving = asyncio.create_task(self._serve())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        await asyncio.wait([serving])
        await self._reconciler.finish()
        self._endpoints.close()
        if not serving.cancelled():
            serving.result()
        logger.info("ended; all rules stay")

    async def _serve(self) -> None:
        await self._endpoints.open(self._options.nri_socket, self._options.http_port)
        await self._stay_connected()

    def _own_files(self) -> Sequence[int]:
        runtime = [self._runtime.fileno()] if self._runtime else []
        return [*runtime, *self._endpoints.files()]

    async def _stay_connected(self) -> None:
        path = self._options.nri_socket
        said, pause = "", _FIRST_PAUSE
        while True:
            try:
                self._runtime = await Runtime.connect(path)
                self._metrics.connections.inc()
                await self._runtime.serve(self._options.plugin_index, self._handle)
                reason = "the runtime has closed the connection"
            except OSError as error:
                reason = f"no connection to the runtime: {path}: {error.strerror or error}"
            except ProxyInitError as error:
                reason = str(error)
            finally:
                if self._runtime:
                    self._runtime.close()
                self._runtime = None
            if self._endpoints.is_ready:
                said, pause = "", _FIRST_PAUSE
            self._set_ready(False)
            if reason != said:
                logger.warning("%s; trying again", reason)
                said = reason
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _set_ready(self, ready: bool) -> None:
        self._endpoints.is_ready = ready
        self._metrics.connected.set(ready)

    async def _handle(self, method: str, payload: bytes, seconds: float) -> Message:
        """Answer a call, within the seconds that there are for it. Raises ProxyInitError, which
        fails the pod, and NotImplementedError."""
        until = time.monotonic() + seconds * _OF_THE_LIMIT
        match method:
            case "Configure":
                request = parsed(ConfigureRequest(), payload)
                runtime = f"{request.runtime_name} {request.runtime_version}"
                logger.info("connected to the runtime: %s", runtime[:100])
                self._arriving = ([], {})
                return ConfigureResponse(events=sum(1 << event - 1 for event in _EVENTS))
            case "Synchronize":
                return self._synchronize(parsed(SynchronizeRequest(), payload))
            case "CreateContainer":
                return await self._create(parsed(CreateContainerRequest(), payload), until)
            case "RunPodSandbox":
                await self._run(parsed(PodRequest(), payload).pod, until)
            case "RemovePodSandbox":
                self._reconciler.forget(parsed(PodRequest(), payload).pod.id)
            case "StateChange":  # as runtimes with an NRI before 0.12 call the last two
                change = parsed(StateChangeEvent(), payload)
                if change.event == RUN_POD_SANDBOX:
                    await self._run(change.pod, until)
                elif change.event == REMOVE_POD_SANDBOX:
                    self._reconciler.forget(change.pod.id)
            case "Shutdown":
                logger.info("the runtime shuts down")
            case _:
                raise NotImplementedError
        return Empty()

    def _synchronize(self, request: SynchronizeRequest) -> SynchronizeResponse:
        """Take all pods and containers of the runtime, which come in pieces."""
        pods, containers = self._arriving
        pods += request.pods
        for message in request.containers:
            containers.setdefault(message.pod_sandbox_id, []).append(container_of(message))
        if not request.more:
            self._arriving = ([], {})
            known = []
            for sandbox in pods:
                try:
                    known.append((pod_of(sandbox), containers.get(sandbox.id, ())))
                except ProxyInitError as error:
                    logger.error("%s", error)
            self._reconciler.take_over(known)
            self._set_ready(True)
        return SynchronizeResponse(more=request.more)

    async def _run(self, sandbox: PodSandbox, until: float) -> None:
        await self._reconciler.reconcile(pod_of(sandbox), None, until)

    async def _create(self, request: CreateContainerRequest, until: float) -> Message:
        container = container_of(request.container)
        note = await self._reconciler.reconcile(pod_of(request.pod), container, until)
        # The runtime refuses what two agents set, which there are while one replaces the other.
        if not note or note == container.note:
            return CreateContainerResponse()
        return CreateContainerResponse(adjust=ContainerAdjustment(annotations={NOTE: note}))
