"""What every module of the API starts from."""

from apiflask import APIBlueprint

from factory.web import auth, inputs

PREFIX = "/api/v1"

inputs.install()


def blueprint(name: str) -> APIBlueprint:
    """Routes below `/api/v1` that need a token."""
    routes = APIBlueprint(name, __name__, url_prefix=PREFIX)
    routes.before_request(auth.required)
    return routes
