"""Floor 2: a worker: one front (HTTP, tokeniser; no torch) and one engine process per rank."""
