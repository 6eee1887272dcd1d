"""Places in the product's own transactions at which a process can be held, and killed there.

Postgres does it: triggers that wait for an advisory lock. Nobody waits unless the lock is held
here, and the product knows nothing of it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

CLAIM = 1  # a worker leases a shard
STORE = 2  # a worker stores a batch: nothing of it is committed
COMMIT = 3  # a worker's COMMIT of a batch has reached the server, and is carried out
FINISH = 4  # every sample is committed; the shard is to be marked as done
SUBMIT = 5  # the web process stores a job
PUBLISH = 6  # the beat has taken due wake-ups, and has sent none

TRIGGERS = """
CREATE FUNCTION hold_here() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  point int := TG_ARGV[0];
  who int := 0;
BEGIN
  IF TG_TABLE_NAME = 'shards' THEN
    who := split_part(NEW.worker, ':', 2)::int;
  ELSIF TG_TABLE_NAME = 'samples' THEN
    SELECT split_part(worker, ':', 2)::int INTO who FROM shards WHERE id = NEW.shard_id;
  END IF;
  PERFORM pg_advisory_xact_lock_shared(100 + point, coalesce(who, 0));
  PERFORM pg_advisory_xact_lock_shared(point, 0);
  RETURN NEW;
END $$;
CREATE TRIGGER hold_claim BEFORE UPDATE ON shards FOR EACH ROW
  WHEN (OLD.state = 'pending' AND NEW.state = 'leased') EXECUTE FUNCTION hold_here(1);
CREATE TRIGGER hold_store BEFORE INSERT ON samples FOR EACH ROW
  WHEN (NEW.shard_id IS NOT NULL) EXECUTE FUNCTION hold_here(2);
CREATE CONSTRAINT TRIGGER hold_commit AFTER INSERT ON samples DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW WHEN (NEW.shard_id IS NOT NULL) EXECUTE FUNCTION hold_here(3);
CREATE TRIGGER hold_finish BEFORE UPDATE ON shards FOR EACH ROW
  WHEN (NEW.state = 'done') EXECUTE FUNCTION hold_here(4);
CREATE TRIGGER hold_submit BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION hold_here(5);
CREATE TRIGGER hold_publish BEFORE UPDATE ON outbox FOR EACH ROW
  WHEN (NEW.sends > OLD.sends) EXECUTE FUNCTION hold_here(6);
"""
WAITING = """
SELECT who.objid::int FROM pg_locks held JOIN pg_locks who USING (pid)
WHERE held.locktype = 'advisory' AND held.classid = %(point)s AND NOT held.granted
  AND who.locktype = 'advisory' AND who.classid = 100 + %(point)s AND who.granted
"""


@dataclass(frozen=True)
class Held:
    """A point at which every process that comes by is held."""

    connection: psycopg.Connection[tuple[int]]
    point: int

    def first(self, seconds: float) -> int:
        """Who is held there first: the worker's pid, or 0 for a process of another kind.
        Raises TimeoutError."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.connection.execute(WAITING, {"point": self.point}).fetchone()
            if found is not None:
                return found[0]
            time.sleep(0.01)
        raise TimeoutError(f"Nobody came to point {self.point} within {seconds:.0f} s.")


@contextmanager
def held(url: str, point: int) -> Iterator[Held]:
    """Hold everybody at this point until the block ends."""
    address = url.replace("postgresql+psycopg://", "postgresql://", 1)
    with psycopg.connect(address, autocommit=True, connect_timeout=5) as connection:
        connection.execute("SELECT pg_advisory_lock(%s, 0)", (point,))
        yield Held(connection, point)
