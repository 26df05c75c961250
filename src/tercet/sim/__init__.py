"""Floor 2: the same scheduler and the same routing on a virtual clock, for hardware that is not here."""
