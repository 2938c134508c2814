"""Sends real packets through the rules in the kernel."""
