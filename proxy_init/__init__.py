"""proxy-init: put a pod's traffic redirection in place before the application starts."""

__version__ = "0.1.0"
