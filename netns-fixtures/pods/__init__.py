"""Throwaway pods made of network namespaces, for the tests, the demo, and people."""

from pods.pod import ENVIRONMENT, Interface, Pod, make_pod
from pods.traffic import REFUSED, TIMEOUT, UNREACHABLE, Answer, Endpoint, connect, listener

__all__ = [
    "ENVIRONMENT",
    "REFUSED",
    "TIMEOUT",
    "UNREACHABLE",
    "Answer",
    "Endpoint",
    "Interface",
    "Pod",
    "connect",
    "listener",
    "make_pod",
]
