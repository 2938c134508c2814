#!/usr/bin/python3.13
"""A web application: `serve` answers with what it saw, `get`, `insist`, `poll` and `keep` ask.

serve PORT      answer requests, by IPv4 and IPv6
get URL         one request, its answer on stdout
insist URL      the same again and again, from its start on, until there is an answer
poll URL        the same, and then once a second until it is killed
keep URL        requests until stdin ends, over one connection that is kept and over a new one each
                time; on stdout `started`, and at the end how many of each, and what went wrong
"""

import json
import os
import select
import socket
import sys
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SECONDS = 5.0  # for one answer


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6  # takes IPv4, too


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one segment an answer, or the client waits for a delayed acknowledgement

    def do_GET(self) -> None:
        answer = {
            "pod": os.environ.get("HOSTNAME", ""),
            "client": self.client_address[0].removeprefix("::ffff:"),
            "headers": {name.lower(): value for name, value in self.headers.items()},
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def connection_to(url: str) -> HTTPConnection:
    return HTTPConnection(urlsplit(url).netloc, timeout=SECONDS)


def ask(connection: HTTPConnection, url: str) -> str:
    connection.request("GET", urlsplit(url).path or "/")
    response = connection.getresponse()
    text = response.read().decode()
    if response.status != 200:
        raise OSError(f"status {response.status}: {text}")
    return text


def insist(url: str) -> None:
    while True:
        try:
            print(ask(connection_to(url), url), flush=True)
            return
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
            time.sleep(0.05)


def poll(url: str) -> None:
    while True:
        insist(url)
        time.sleep(1)


def keep(url: str) -> None:
    kept = connection_to(url)
    kept.connect()
    kept.auto_open = 0  # it shall not connect again
    counts = {"kept": 0, "new": 0}
    failures = []
    ask(kept, url)
    print("started", flush=True)
    while not select.select([sys.stdin], [], [], 0.005)[0]:
        new = connection_to(url)
        for name, connection in (("kept", kept), ("new", new)):
            try:
                ask(connection, url)
                counts[name] += 1
            except OSError as error:
                failures.append(f"{name}: {error!r}")
        new.close()
    print(json.dumps({"counts": counts, "failures": failures}))


def main() -> None:
    command, value = sys.argv[1:]
    if command == "serve":
        Server(("::", int(value)), Handler).serve_forever()
    elif command == "get":
        print(ask(connection_to(value), value))
    elif command == "insist":
        insist(value)
    elif command == "poll":
        poll(value)
    else:
        keep(value)


if __name__ == "__main__":
    main()
