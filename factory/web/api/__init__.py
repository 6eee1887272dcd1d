"""The JSON API, `/api/v1`: one module for each kind of thing."""

from flask import Flask

from factory.web.api.datasets import routes as dataset_routes
from factory.web.api.events import routes as event_routes
from factory.web.api.export import routes as export_routes
from factory.web.api.jobs import routes as job_routes
from factory.web.api.models import routes as model_routes
from factory.web.api.requests import routes as request_routes
from factory.web.api.samples import routes as sample_routes
from factory.web.api.tokens import routes as token_routes

BLUEPRINTS = (
    dataset_routes,
    event_routes,
    export_routes,
    job_routes,
    model_routes,
    request_routes,
    sample_routes,
    token_routes,
)


def register(app: Flask) -> None:
    """Add every route of the API."""
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
