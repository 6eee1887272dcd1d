"""`factory token`: create, list, revoke."""

import click

from factory.cli.command import Group
from factory.cli.connect import connected, load_settings, require
from factory.cli.output import answer, note, table
from factory.connection import Json


@click.group("token", cls=Group)
def group() -> None:
    """API tokens: one for each person or program."""


@group.command(
    "create", examples=["factory token create alice", "factory token create first --direct"]
)
@click.argument("name")
@click.option(
    "--direct",
    is_flag=True,
    help="Write to the database of FACTORY_DATABASE_URL: for the first token of a new factory.",
)
def create(name: str, direct: bool) -> None:
    """Make a token. Its value is shown once and cannot be read again."""
    if direct:
        made = _create_directly(name)
    else:
        with connected() as client:
            made = client.create_token(name)
    note("Keep it: it is not shown again.")
    answer(made, made["token"])


@group.command("list", examples=["factory token list"])
def list_() -> None:
    """List every token, without its value."""
    with connected() as client:
        items = list(client.tokens())
    columns = ("id", "name", "created_at", "last_used_at", "revoked_at")
    answer({"items": items}, table(columns, [[t[column] for column in columns] for t in items]))


@group.command("revoke", examples=["factory token revoke ID"])
@click.argument("token_id", metavar="ID")
def revoke(token_id: str) -> None:
    """End a token at once."""
    with connected() as client:
        token = client.revoke_token(token_id)
    answer(token, f"Token {token['name']} is revoked.")


def _create_directly(name: str) -> Json:
    from factory import tokens
    from factory.db import Database

    settings = load_settings()
    require(settings, "database_url")
    database = Database(settings.database_url)
    try:
        with database.transaction() as session:
            token, value = tokens.create(session, name)
            return {
                "id": str(token.id),
                "name": token.name,
                "token": value,
                "created_at": token.created_at.isoformat(),
            }
    finally:
        database.close()
