"""How each engine's workers are started: one file an engine, chosen by the topology's `engine`."""
