"""Floor 3: results for human eyes: tables and the verdict in words."""
