"""Several router processes on one port, that share what they know of the fleet."""
