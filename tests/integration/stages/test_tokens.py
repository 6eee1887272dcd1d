"""API tokens: known by their hash alone, and no longer once revoked."""

import pytest
from sqlalchemy import select

from factory import tokens
from factory.db import Database
from factory.errors import NotFound, Unauthorized
from factory.ids import new_id
from factory.tables import ApiToken


def test_a_token_is_verified_until_it_is_revoked(database: Database) -> None:
    with database.transaction() as session:
        token, value = tokens.create(session, "ci")
    assert value.startswith(tokens.PREFIX)
    assert len(value) > 40
    with database.transaction() as session:
        assert tokens.verify(session, value).id == token.id
        assert tokens.live(session, token.id).name == "ci"
        first = tokens.revoke(session, token.id).revoked_at
        assert tokens.revoke(session, token.id).revoked_at == first
    for check in (lambda s: tokens.verify(s, value), lambda s: tokens.live(s, token.id)):
        with pytest.raises(Unauthorized), database.transaction() as session:
            check(session)


def test_the_value_is_kept_nowhere(database: Database) -> None:
    with database.transaction() as session:
        token, value = tokens.create(session, "ci")
        row = session.execute(select(ApiToken.__table__).where(ApiToken.id == token.id)).one()
    assert value.encode() not in repr(tuple(row)).encode()


@pytest.mark.parametrize("value", ["", "sf_unknown", "é\x00"])
def test_unknown_values_are_refused(database: Database, value: str) -> None:
    with pytest.raises(Unauthorized), database.transaction() as session:
        tokens.verify(session, value)


def test_unknown_tokens_are_not_found_or_not_let_in(database: Database) -> None:
    with pytest.raises(NotFound), database.transaction() as session:
        tokens.revoke(session, new_id())
    with pytest.raises(Unauthorized), database.transaction() as session:
        tokens.live(session, new_id())


def test_a_token_that_is_ensured_is_there_once_and_stays_revoked(database: Database) -> None:
    for _ in range(2):
        with database.transaction() as session:
            tokens.ensure(session, "local", "sf_local")
    with database.transaction() as session:
        tokens.revoke(session, tokens.verify(session, "sf_local").id)
        tokens.ensure(session, "local", "sf_local")
    with pytest.raises(Unauthorized), database.transaction() as session:
        tokens.verify(session, "sf_local")


def test_use_is_noted_at_most_once_a_minute(database: Database) -> None:
    with database.transaction() as session:
        token, _ = tokens.create(session, "ci")
    seen = []
    for _ in range(2):
        with database.transaction() as session:
            tokens.touch(session, token.id)
        with database.transaction() as session:
            seen.append(session.get_one(ApiToken, token.id).last_used_at)
    assert seen[0] is not None
    assert seen[0] == seen[1]


def test_tokens_are_listed_newest_first(database: Database) -> None:
    with database.transaction() as session:
        ids = [tokens.create(session, f"t{i}")[0].id for i in range(3)]
        page = tokens.list_all(session, limit=2)
        rest = tokens.list_all(session, before=page[-1].id, limit=1)
    assert [token.id for token in (*page, *rest)] == ids[::-1]
