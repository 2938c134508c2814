"""A web server on the node, which is no part of the mesh and remembers who connected."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORT = 8080
FROM_A_PROXY = "x-request-id"  # Envoy adds this header, and no application here does


@dataclass(slots=True)
class Connection:
    """A TCP connection that was accepted, and whether all that came on it came from a proxy."""

    client: str
    requests: int = 0
    direct: int = 0


@dataclass(frozen=True, slots=True)
class Outside:
    """The server, while it runs; `connections` grows."""

    connections: list[Connection] = field(default_factory=list)

    def clients(self) -> set[str]:
        """The addresses from which a request came through a proxy."""
        return {each.client for each in self.connections if each.requests > each.direct}

    def direct(self) -> list[Connection]:
        """The connections that no proxy has made: nothing is known of one without a request."""
        return [each for each in self.connections if each.direct or not each.requests]


@contextmanager
def serve() -> Iterator[Outside]:
    """The server, on all addresses of both families, until the block ends."""
    outside = Outside()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one segment an answer, or the client waits for a delayed acknowledgement

        def setup(self) -> None:
            super().setup()
            client = self.client_address[0].removeprefix("::ffff:")
            self.seen = Connection(client)
            outside.connections.append(self.seen)

        def do_GET(self) -> None:
            self.seen.requests += 1
            proxied = FROM_A_PROXY in self.headers
            self.seen.direct += not proxied
            body = b"through a proxy" if proxied else b"direct"
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6  # takes IPv4, too
        request_queue_size = 128

    with Server(("::", PORT), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield outside
        finally:
            server.shutdown()
            thread.join()
