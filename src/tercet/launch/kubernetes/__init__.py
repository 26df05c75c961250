"""A topology as objects of a Kubernetes cluster."""
