"""What watches a router: a dashboard for Grafana, and alert rules for Prometheus."""
