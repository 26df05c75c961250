"""Where workers are learned of while the router runs: a file, DNS, Kubernetes' API."""
