"""Model pairs and the digests of their weights."""

from flask.typing import ResponseReturnValue

from factory import models
from factory.web.pages.frame import page, pages
from factory.web.state import current


@pages.get("/models")
def models_list() -> ResponseReturnValue:
    """Every pair, newest first."""
    with current().db.transaction() as session:
        return page(session, "models.html", pairs=models.list_all(session))
