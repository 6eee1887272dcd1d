"""The JSON API, `/api/v1`: one module for each kind of thing."""

from flask import Flask

from factory.web.api.datasets import routes as datasets
from factory.web.api.events import routes as events
from factory.web.api.export import routes as export
from factory.web.api.jobs import routes as jobs
from factory.web.api.models import routes as models
from factory.web.api.requests import routes as requests
from factory.web.api.samples import routes as samples
from factory.web.api.tokens import routes as tokens

BLUEPRINTS = (datasets, export, models, jobs, events, samples, requests, tokens)


def register(app: Flask) -> None:
    """Add every route of the API."""
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
