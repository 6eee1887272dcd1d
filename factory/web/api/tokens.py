"""API tokens."""

import uuid
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from factory import tokens
from factory.web import shapes, show
from factory.web.api.blueprint import blueprint
from factory.web.paging import PageQuery, page
from factory.web.state import current

routes = blueprint("tokens")


class TokenName(BaseModel):
    """A token to be made."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200, description="Whose it is, or what it is for")


@routes.post("/tokens")
@routes.input(TokenName, arg_name="new")
@routes.output(shapes.NewToken, status_code=201)
def create_token(new: TokenName) -> dict[str, Any]:
    """Make a token. Its value is shown only here."""
    with current().db.transaction() as session:
        token, value = tokens.create(session, new.name)
        return show.token(token, token=value)


@routes.get("/tokens")
@routes.input(PageQuery, location="query", arg_name="query")
@routes.output(shapes.TokenPage)
def list_tokens(query: PageQuery) -> dict[str, Any]:
    """List tokens, newest first, revoked ones too, without their values."""
    with current().db.transaction() as session:
        return page(
            lambda n: tokens.list_all(session, before=query.before, limit=n),
            query.limit,
            show.token,
        )


@routes.delete("/tokens/<uuid:token_id>")
@routes.output(shapes.Token)
def revoke_token(token_id: uuid.UUID) -> dict[str, Any]:
    """Revoke a token. It stops working at once; doing it again changes nothing."""
    with current().db.transaction() as session:
        return show.token(tokens.revoke(session, token_id))
