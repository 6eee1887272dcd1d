"""The dashboard: server-rendered pages that compose the stages directly on the database.

Every page works as plain HTML; htmx only saves reloads. Text from outside (samples, labels,
names, prompts, errors) is escaped by Jinja everywhere.
"""

from flask import Flask

import factory.web.pages.budget
import factory.web.pages.compare
import factory.web.pages.dataset
import factory.web.pages.evaluation
import factory.web.pages.experiment
import factory.web.pages.feedback
import factory.web.pages.job
import factory.web.pages.job_form
import factory.web.pages.login
import factory.web.pages.map
import factory.web.pages.model
import factory.web.pages.overview
import factory.web.pages.playground
import factory.web.pages.review
import factory.web.pages.sample
import factory.web.pages.settings  # noqa: F401  (views add themselves to the blueprint)
from factory.web.pages import errors
from factory.web.pages.frame import pages


def register(app: Flask) -> None:
    """Add every page to the application."""
    app.register_blueprint(pages)
    errors.register(app)
