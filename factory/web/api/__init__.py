"""The JSON API, `/api/v1`: one module for each kind of thing."""

from flask import Flask

from factory.web.api import datasets, events, export, jobs, models, requests, samples, tokens

MODULES = (datasets, export, models, jobs, events, samples, requests, tokens)


def register(app: Flask) -> None:
    """Add every route of the API."""
    for module in MODULES:
        app.register_blueprint(module.routes)
