"""Floor 3: which architecture a number of GPUs should have for a traffic: search, ranking, and what would change it."""
