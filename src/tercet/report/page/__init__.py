"""The page: one HTML file that needs nothing beside itself. Needs the extra `report` for its pictures."""
