"""The readers of rules: walk a packet, prove promises, plan probes, compare counts."""
