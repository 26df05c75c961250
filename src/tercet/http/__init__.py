"""Floor 1: the lean HTTP/1.1 server and client that router, workers and load generator share."""
