"""The database as threads of a worker's parent use it, beside the loop that forks children."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from factory.db import Database


class ParentDatabase(Database):
    """No child is forked while a transaction is under way: it would inherit locks that nobody in it
    releases. No connection stays open between transactions: none is shared across a fork."""

    def __init__(self, url: str) -> None:
        super().__init__(url, pool_size=1)
        self._at_work = threading.Lock()
        os.register_at_fork(
            before=self._at_work.acquire,
            after_in_parent=self._at_work.release,
            after_in_child=self._at_work.release,
        )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """As a Database's, one at a time."""
        with self._at_work:
            try:
                with super().transaction() as session:
                    yield session
            finally:
                self.close()
