"""Reads flags, variables and files into a checked Config."""
