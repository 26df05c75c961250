"""What the router answers, as an OpenAPI 3.1 document: one `Operation` for each method of each path."""
