"""The web process: JSON API, dashboard and webhook."""
