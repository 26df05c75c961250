"""Makes the latency grid that Tercet ships."""
