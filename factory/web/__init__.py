"""The web process: JSON API, dashboard, Label Studio's webhook, health and metrics."""

from apiflask import APIFlask

from factory import __version__
from factory.db import Database
from factory.dispatch import celery_app
from factory.settings import Settings
from factory.web import auth
from factory.web.state import KEY, THREADS, State


def create_app(settings: Settings) -> APIFlask:
    """The WSGI application. Connects to nothing until it is asked something."""
    app = APIFlask("factory.web", title="STEER Factory", version=__version__, json_errors=False)
    app.extensions[KEY] = State(
        settings, Database(settings.database_url, pool_size=THREADS), celery_app(settings)
    )
    auth.configure(app)
    return app
