"""Floor 4: the same conversations through every mode on the same devices, and what follows from it."""
