"""Floor 3: from a topology to running processes, and back to none."""
