"""This process and its environment: files in /proc, namespaces, child processes, locks."""
