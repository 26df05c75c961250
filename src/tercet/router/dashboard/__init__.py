"""The dashboard at /ui: one page that asks the router once a second how it is."""
