"""Floor 1: how long a step takes on a device that need not be here."""
