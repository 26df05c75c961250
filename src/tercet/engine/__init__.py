"""Floor 1: the built-in engine: scheduler, paged blocks, executors."""
