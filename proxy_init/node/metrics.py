"""What the agent counts, for Prometheus."""

from collections.abc import Mapping

from ..kernel.system.stand_ins import module, stand_ins

# It imports ssl for servers of its own, which are not used here; the image has no OpenSSL.
with stand_ins({"ssl": module("ssl", __getattr__=lambda name: None)}):
    from prometheus_client import (
        CollectorRegistry,
        Counter,
        Gauge,
        Histogram,
        disable_created_metrics,
        generate_latest,
    )

disable_created_metrics()  # type: ignore[no-untyped-call]  # when a counter began: of no use

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
_SECONDS = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.25, 0.5, 1.0, 1.5)
OUTCOMES = ("applied", "unchanged", "kept", "cleaned", "left_alone", "refused", "failed", "late")


class Metrics:
    """The agent's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.pods = Gauge(
            "proxy_init_node_pods", "Pods of the node.", ["state"], registry=self._registry
        )
        self.outcomes = Counter(
            "proxy_init_node_outcomes",
            "What came of looking after a pod.",
            ["outcome"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "proxy_init_node_seconds",
            "Time that the runtime waited for an answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.repairs = Counter(
            "proxy_init_node_repairs",
            "Pods whose rules were missing or had changed.",
            registry=self._registry,
        )
        self.connections = Counter(
            "proxy_init_node_connections", "Connections to the runtime.", registry=self._registry
        )
        self.connected = Gauge(
            "proxy_init_node_connected", "Whether the runtime calls us.", registry=self._registry
        )
        for outcome in OUTCOMES:
            self.outcomes.labels(outcome)

    def text(self, pods: Mapping[str, int]) -> bytes:
        """All of them as Prometheus reads them, with the number of pods by state."""
        self.pods.clear()
        for state, number in pods.items():
            self.pods.labels(state).set(number)
        return bytes(generate_latest(self._registry))
