"""Floor 2: the load generator, what it measures, and whether it can be believed."""
