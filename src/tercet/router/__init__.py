"""Floor 2: the router: executes routes; health, handoffs, administration, telemetry."""
