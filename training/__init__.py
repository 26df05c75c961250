"""Training of what Tercet ships; not part of the package."""
