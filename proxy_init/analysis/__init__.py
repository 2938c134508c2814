"""Analyses rules: walks packets, proves promises, plans probes, compares counters."""
