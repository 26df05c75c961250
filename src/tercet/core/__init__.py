"""Floor 0: words that every other floor shares. No I/O."""
