"""Floor 1: guarded fetch and decode of pictures. No torch."""
