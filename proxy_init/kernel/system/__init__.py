"""This process and what surrounds it: files in /proc, namespaces, children, locks."""
