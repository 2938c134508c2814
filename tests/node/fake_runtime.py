"""A container runtime as far as NRI goes: its socket, and calls to the plugin that connects."""

import os
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from google.protobuf.message import Message

from pods import ENVIRONMENT
from proxy_init.node.nri_pb2 import (
    ConfigureRequest,
    ConfigureResponse,
    Container,
    CreateContainerRequest,
    CreateContainerResponse,
    Event,
    LinuxNamespace,
    LinuxPodSandbox,
    PodRequest,
    PodSandbox,
    RegisterPluginRequest,
    Request,
    Response,
    StateChangeEvent,
    SynchronizeRequest,
    SynchronizeResponse,
)

PLUGIN, RUNTIME = 1, 2  # the numbers of the two connections
SECONDS = 20.0  # for an answer: containerd has 2, but tests may run on a busy machine


class PluginGone(Exception):
    """The plugin closed the connection, or was thrown out."""


class CallFailed(Exception):
    """The plugin answered with an error."""


class Plugin:
    """A plugin that has connected, from the runtime's side."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.streams = {PLUGIN: b"", RUNTIME: b""}
        self.calls = 0
        self.registered = RegisterPluginRequest()
        self.events = 0

    def start(
        self, pods: Sequence[PodSandbox] = (), containers: Sequence[Container] = (), pieces: int = 1
    ) -> None:
        """Let it register, configure it, and tell it of all pods."""
        number, payload = self.receive(RUNTIME)
        request = Request.FromString(payload)
        assert (request.service, request.method) == (
            "nri.pkg.api.v1alpha1.Runtime",
            "RegisterPlugin",
        )
        self.registered.ParseFromString(request.payload)
        self.send(RUNTIME, number, 2, Response().SerializeToString())
        answer = ConfigureResponse()
        answer.ParseFromString(
            self.call("Configure", ConfigureRequest(runtime_name="fake", runtime_version="v0"))
        )
        self.events = answer.events
        for piece in range(pieces):
            more = piece < pieces - 1
            request_ = SynchronizeRequest(
                pods=pods[piece::pieces], containers=containers[piece::pieces], more=more
            )
            got = SynchronizeResponse.FromString(self.call("Synchronize", request_))
            assert got.more == more

    def call(self, method: str, message: Message, seconds: float = SECONDS) -> bytes:
        """Call it. Raises CallFailed, PluginGone, and TimeoutError after the time limit."""
        return self.call_with(method, message.SerializeToString(), seconds)

    def call_with(self, method: str, payload: bytes, seconds: float = SECONDS) -> bytes:
        """The same, with whatever bytes."""
        self.begin(method, payload, seconds)
        self.connection.settimeout(seconds)
        return self.finish()

    def begin(self, method: str, payload: bytes, seconds: float = SECONDS) -> None:
        """The first half of a call; `seconds` is the time limit that the plugin is told."""
        self.calls += 2
        request = Request(
            service="nri.pkg.api.v1alpha1.Plugin",
            method=method,
            payload=payload,
            timeout_nano=int(seconds * 1e9),
        )
        self.send(PLUGIN, self.calls - 1, 1, request.SerializeToString())

    def finish(self) -> bytes:
        """The second half: the answer."""
        number, answered = self.receive(PLUGIN)
        assert number == self.calls - 1
        response = Response.FromString(answered)
        if response.status.code:
            raise CallFailed(response.status.message)
        return response.payload

    def run(self, pod: PodSandbox) -> None:
        """A pod is being made, as runtimes with NRI 0.12 say it."""
        self.call("RunPodSandbox", PodRequest(pod=pod))

    def run_by_state_change(self, pod: PodSandbox) -> None:
        """The same as earlier ones say it."""
        self.call("StateChange", StateChangeEvent(event=Event.RUN_POD_SANDBOX, pod=pod))

    def create(self, pod: PodSandbox, container: Container) -> Mapping[str, str]:
        """A container is being made; gives the annotations that the plugin wants it to have."""
        request = CreateContainerRequest(pod=pod, container=container)
        answer = CreateContainerResponse.FromString(self.call("CreateContainer", request))
        return dict(answer.adjust.annotations)

    def begin_run(self, pod: PodSandbox, seconds: float = SECONDS) -> None:
        """The first half of `run`."""
        self.begin("RunPodSandbox", PodRequest(pod=pod).SerializeToString(), seconds)

    def remove(self, pod: PodSandbox) -> None:
        """A pod is gone."""
        self.call("RemovePodSandbox", PodRequest(pod=pod))

    def send(self, connection: int, number: int, kind: int, payload: bytes) -> None:
        """Send a message, in frames as Go's buffered writer makes them: of 4096 bytes at most."""
        data = struct.pack(">IIBB", len(payload), number, kind, 0) + payload
        for start in range(0, len(data), 4096):
            part = data[start : start + 4096]
            self.connection.sendall(struct.pack(">II", connection, len(part)) + part)

    def receive(self, connection: int) -> tuple[int, bytes]:
        """The next message on a connection: the number of its call, and its bytes."""
        while True:
            data = self.streams[connection]
            if len(data) >= 10:
                length, number = struct.unpack(">II", data[:8])
                if len(data) >= 10 + length:
                    self.streams[connection] = data[10 + length :]
                    return number, data[10 : 10 + length]
            which, size = struct.unpack(">II", self._exactly(8))
            self.streams[which] += self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self.connection.recv(size - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                raise PluginGone
            data += part
        return data

    def close(self) -> None:
        """Throw it out."""
        self.connection.close()


class FakeRuntime:
    """The runtime's socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        self.socket.bind(str(path))
        self.socket.listen()
        self.accepted: list[Plugin] = []

    def accept(self, seconds: float = 20.0) -> Plugin:
        """The next plugin that connects."""
        self.socket.settimeout(seconds)
        connection, _ = self.socket.accept()
        connection.settimeout(seconds)
        self.accepted.append(Plugin(connection))
        return self.accepted[-1]

    def plugin(
        self, pods: Sequence[PodSandbox] = (), containers: Sequence[Container] = ()
    ) -> Plugin:
        """The next plugin, started."""
        plugin = self.accept()
        plugin.start(pods, containers)
        return plugin

    def close(self) -> None:
        """End, as a runtime that is stopped."""
        for plugin in self.accepted:
            plugin.close()
        self.socket.close()


def pod(
    netns: str | None,
    name: str = "web",
    annotations: Mapping[str, str] = {},
    labels: Mapping[str, str] = {},
) -> PodSandbox:
    """A pod in the network namespace of that `ip netns` name; None: in the node's own."""
    namespaces = [LinuxNamespace(type="ipc", path="/proc/1/ns/ipc")]
    if netns is not None:
        namespaces.append(LinuxNamespace(type="network", path=f"/var/run/netns/{netns}"))
    return PodSandbox(
        id=secrets.token_hex(32),
        name=name,
        namespace="default",
        annotations=annotations,
        labels=labels,
        linux=LinuxPodSandbox(namespaces=namespaces),
    )


def container(
    of: PodSandbox,
    name: str,
    argv: Sequence[str] = ("/pause",),
    environ: Mapping[str, str] = {},
    annotations: Mapping[str, str] = {},
) -> Container:
    """A container of a pod."""
    return Container(
        id=secrets.token_hex(32),
        pod_sandbox_id=of.id,
        name=name,
        args=argv,
        env=[f"{key}={value}" for key, value in environ.items()],
        annotations=annotations,
    )


class AgentProcess:
    """`proxy-init node`, running."""

    def __init__(self, path: Path, log: Path, words: Sequence[str], before: Sequence[str]) -> None:
        self.log_file = log
        command = [*before, sys.executable, "-m", "proxy_init", "node", "--nri-socket", str(path)]
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [*command, *words], stdin=subprocess.DEVNULL, stderr=file, env=ENVIRONMENT
            )

    @property
    def log(self) -> str:
        """What it has logged."""
        return self.log_file.read_text()

    def wait_for_log(self, text: str, seconds: float = 20.0) -> None:
        """Wait until it has logged this."""
        until = time.monotonic() + seconds
        while text not in self.log:
            assert time.monotonic() < until, f"{text!r} is not in {self.log}"
            assert self.process.poll() is None, self.log
            time.sleep(0.02)

    def resident(self) -> int:
        """Its resident memory, in bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def terminate(self) -> int:
        """End it by SIGTERM, and give its exit status."""
        self.process.terminate()
        return self.process.wait(20)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait(20)


@contextmanager
def agent(path: Path, log: Path, *words: str, before: Sequence[str] = ()) -> Iterator[AgentProcess]:
    """An agent, until the block ends. `before` are words of a program that runs it."""
    process = AgentProcess(path, log, words, before)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.kill()
