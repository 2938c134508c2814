"""The model of a ruleset and pure functions on it: text, ownership, reconciliation."""
