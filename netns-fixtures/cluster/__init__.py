"""A throwaway Kubernetes: real programs, built from source, in namespaces of their own."""
