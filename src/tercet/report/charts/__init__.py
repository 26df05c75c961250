"""Pictures of evidence: one file a kind of picture, each a function to an Altair chart. Needs the extra `report`."""
