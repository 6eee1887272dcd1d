"""Model pairs."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from factory import models
from factory.spec import Name
from factory.web import shapes, show
from factory.web.api.blueprint import blueprint
from factory.web.paging import PageQuery, page
from factory.web.state import current

Ref = Annotated[
    str,
    Field(
        min_length=1,
        max_length=1000,
        description="A folder below FACTORY_MODEL_ROOTS, or a hub id of FACTORY_MODEL_HUB_IDS",
    ),
]

routes = blueprint("models")


class NewModelPair(BaseModel):
    """A model pair to be registered."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    base: Ref
    expert: Ref
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = Field(
        None, description="Commit of the hub ids"
    )


@routes.post("/models")
@routes.input(NewModelPair, arg_name="new")
@routes.output(shapes.ModelPair, status_code=201)
@routes.doc(responses=[409])
def create_model(new: NewModelPair) -> dict[str, Any]:
    """Register a model pair. Its weights are first read when a worker loads them."""
    state = current()
    with state.db.transaction() as session:
        return show.model(models.add(session, state.settings, **new.model_dump()))


@routes.get("/models")
@routes.input(PageQuery, location="query", arg_name="query")
@routes.output(shapes.ModelPage)
def list_models(query: PageQuery) -> dict[str, Any]:
    """List model pairs, newest first."""
    with current().db.transaction() as session:
        return page(
            lambda n: models.list_all(session, before=query.before, limit=n),
            query.limit,
            show.model,
        )
