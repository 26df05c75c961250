"""Floor 1: each engine's wire protocol as a pure state machine."""
