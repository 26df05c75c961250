"""Floor 1: from facts and fleet to a route, by pure functions."""
