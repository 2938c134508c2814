"""The vocabulary of a ruleset, and all that is pure about it."""
