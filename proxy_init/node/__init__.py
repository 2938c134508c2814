"""The agent of node mode: puts the rules into each pod of a node, through the container runtime."""
