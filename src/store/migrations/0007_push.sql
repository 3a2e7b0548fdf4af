-- The push log: what users' gateways are told, in the order of the commits.
--
-- The next cursor is kept apart from the rows, so that none is given twice. The
-- log is open while a gateway is there or was there lately; a closed one takes
-- no rows. Cursors below the floor cannot be gone on from: rows behind them are
-- gone, or were never written.
ALTER TABLE node ADD COLUMN push_next INTEGER NOT NULL DEFAULT 2;
ALTER TABLE node ADD COLUMN push_floor INTEGER NOT NULL DEFAULT 1;
ALTER TABLE node ADD COLUMN push_open INTEGER NOT NULL DEFAULT 0 CHECK (push_open IN (0, 1));
-- When a gateway was there last.
ALTER TABLE node ADD COLUMN push_seen_at INTEGER NOT NULL DEFAULT 0;
-- Events stored so far, by which a row tells how many came after it: cursors
-- have gaps.
ALTER TABLE node ADD COLUMN push_total INTEGER NOT NULL DEFAULT 0;

CREATE TABLE push (
    -- Of the last of its users; those before it have the cursors before it.
    cursor     INTEGER PRIMARY KEY,
    -- Names with a space between them; each is told of it.
    users      TEXT    NOT NULL,
    -- push_total with this row.
    total      INTEGER NOT NULL,
    stored_at  INTEGER NOT NULL,
    -- One device session; empty: all of the user's.
    session    TEXT    NOT NULL,
    -- NULL: the session ended, and the payload is the reason.
    kind       TEXT,
    event_id   TEXT,
    request_id TEXT    NOT NULL,
    trace_id   TEXT    NOT NULL,
    payload    BLOB    NOT NULL,
    CHECK ((kind IS NULL) = (event_id IS NULL))
) STRICT;
-- The same event is kept once for those it is for.
CREATE UNIQUE INDEX push_event_id ON push (event_id, users);

-- The user that a party with this token is bound to.
ALTER TABLE token ADD COLUMN bound_user INTEGER;
CREATE INDEX token_bound ON token (created_at) WHERE bound_user IS NOT NULL;

-- That a user's session expired was told.
ALTER TABLE token ADD COLUMN lapsed INTEGER NOT NULL DEFAULT 0 CHECK (lapsed IN (0, 1));
CREATE INDEX token_lapse ON token (expires_at) WHERE user_id IS NOT NULL AND expires_at IS NOT NULL AND lapsed = 0;
