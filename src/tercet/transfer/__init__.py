"""Floor 1: transports that move KV blocks between engines, and the handoff protocol around them."""
