"""Floor 1: what is sent: workloads, conversations and when they arrive. Pure and seeded."""
