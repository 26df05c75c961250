"""Floor 1: the results schema, writing, reading and summing up. No knowledge of how results come about."""
