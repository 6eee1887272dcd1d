"""The web process: JSON API, dashboard, Label Studio's webhook, health and metrics."""

from apiflask import APIFlask
from flask_compress import Compress

from factory import __version__
from factory.db import Database
from factory.dispatch import celery_app
from factory.settings import Settings
from factory.web import api, auth, health, hooks, inputs, observe, openapi, pages, problems
from factory.web.metrics import Metrics
from factory.web.state import KEY, THREADS, State

SMALLER = ("text/html", "text/css", "text/javascript", "image/svg+xml")


def create_app(settings: Settings) -> APIFlask:
    """The WSGI application. Connects to nothing until it is asked something."""
    app = APIFlask(
        "factory.web",
        title="STEER Factory",
        version=__version__,
        json_errors=False,
        docs_path=None,  # APIFlask's pages load scripts from elsewhere
    )
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["COMPRESS_MIMETYPES"] = list(SMALLER)  # what is sent as it is made stays as it is
    Compress(app)
    db = Database(settings.database_url, pool_size=THREADS)
    app.extensions[KEY] = State(settings, db, celery_app(settings), Metrics(db, settings))
    for part in (observe, problems, inputs, auth, openapi):
        part.configure(app)
    api.register(app)
    app.register_blueprint(hooks.routes)
    app.register_blueprint(health.routes)
    pages.register(app)
    return app
