"""Throwaway pods made of network namespaces, for the tests, the demo, and people."""

from pods.pod import ENVIRONMENT, Interface, Pod, make_pod
from pods.router import Router, make_router
from pods.traffic import (
    GARBLED,
    REFUSED,
    TIMEOUT,
    UNREACHABLE,
    Answer,
    Endpoint,
    connect,
    forwarder,
    listener,
)

__all__ = [
    "ENVIRONMENT",
    "GARBLED",
    "REFUSED",
    "TIMEOUT",
    "UNREACHABLE",
    "Answer",
    "Endpoint",
    "Interface",
    "Pod",
    "Router",
    "connect",
    "forwarder",
    "listener",
    "make_pod",
    "make_router",
]
