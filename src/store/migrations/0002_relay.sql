-- The MPC router: messages and who they are for, parties, sessions and events.
--
-- Deliveries and events take their numbers from node.next_number; a message
-- brings its own, which its maker gave it.
-- A server is named by its peer row; 0 is this node.

-- The greatest created_at ever given to a delivery: what comes after a restart
-- is above it, even when the clock went back and every row is gone.
ALTER TABLE node ADD COLUMN last_created INTEGER NOT NULL DEFAULT 0;

CREATE TABLE message (
    number      INTEGER PRIMARY KEY,
    -- Random: a local message's id is made of number and tag.
    tag         INTEGER NOT NULL,
    origin      INTEGER NOT NULL,
    -- The id its origin gave a message of another server.
    remote_id   TEXT,
    session     TEXT    NOT NULL,
    sender      TEXT    NOT NULL,
    broadcast   INTEGER NOT NULL CHECK (broadcast IN (0, 1)),
    round       INTEGER NOT NULL,
    kind        TEXT    NOT NULL,
    accepted_at INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    size        INTEGER NOT NULL,
    -- Its deliveries, and how many of them are not final.
    recipients  INTEGER NOT NULL,
    open        INTEGER NOT NULL,
    -- Its body is no longer kept.
    freed       INTEGER NOT NULL CHECK (freed IN (0, 1)),
    CHECK ((origin = 0) = (remote_id IS NULL))
) STRICT;
-- A message of another server is taken once. The id stands first: it is
-- looked for without its origin too.
CREATE UNIQUE INDEX message_remote ON message (remote_id, origin) WHERE origin <> 0;
-- Each message is in one of these two: its deliveries are still to be failed
-- when it expires, or it is to be removed some time after.
CREATE INDEX message_due ON message (expires_at) WHERE open > 0;
CREATE INDEX message_over ON message (expires_at) WHERE open = 0;
CREATE INDEX message_freeable ON message (number) WHERE open = 0 AND freed = 0;

-- Apart from the message, whose row changes with every final delivery: SQLite
-- writes a row anew as a whole.
CREATE TABLE message_body (
    number INTEGER PRIMARY KEY,
    body   BLOB    NOT NULL
) STRICT;

CREATE TABLE delivery (
    seq          INTEGER PRIMARY KEY,
    message      INTEGER NOT NULL,
    session      TEXT    NOT NULL,
    peer         INTEGER NOT NULL,
    party        TEXT    NOT NULL,
    -- Of a local recipient: rises strictly with seq.
    created_at   INTEGER NOT NULL,
    -- 0 pending, 1 delivered, 2 acknowledged, 3 failed; the last two are final.
    state        INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3),
    delivered_at INTEGER,
    finished_at  INTEGER,
    retries      INTEGER NOT NULL,
    error        TEXT    NOT NULL,
    -- The state the origin of the message was told; 3 where there is nobody to
    -- be told.
    reported     INTEGER NOT NULL CHECK (reported BETWEEN 0 AND 3),
    CHECK ((state < 2) = (finished_at IS NULL))
) STRICT;
-- A state for one recipient among a thousand must find its row at once.
CREATE INDEX delivery_message ON delivery (message, peer, party);
-- What waits for a local party, and the same for each session: who has a
-- hundred thousand waiting in one reads a page of another at once. By
-- finished_at, not state: the step to delivered leaves these indexes alone.
-- created_at stands in them so that a page from a moment on skips the older
-- ones without reading their rows; the two columns of the condition, so that
-- counting reads none either.
CREATE INDEX delivery_open ON delivery (party, seq, created_at, peer, finished_at)
    WHERE peer = 0 AND finished_at IS NULL;
CREATE INDEX delivery_open_session ON delivery (party, session, seq, created_at)
    WHERE peer = 0 AND finished_at IS NULL;
CREATE INDEX delivery_unreported ON delivery (seq) WHERE state > reported;

-- What a caller's key stood for; as long as the message.
CREATE TABLE idempotency (
    caller  TEXT    NOT NULL,
    key     TEXT    NOT NULL,
    message INTEGER NOT NULL,
    digest  BLOB    NOT NULL,
    PRIMARY KEY (caller, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_message ON idempotency (message);

CREATE TABLE party (
    name          TEXT    PRIMARY KEY,
    role          TEXT    NOT NULL CHECK (role IN ('persistent', 'delegate', 'temporary')),
    version       TEXT    NOT NULL,
    email         TEXT,
    phone         TEXT,
    push_token    TEXT,
    registered_at INTEGER NOT NULL,
    last_seen_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- No owner: nobody announced it.
CREATE TABLE session (
    session TEXT    PRIMARY KEY,
    owner   INTEGER,
    -- An event named its parties.
    settled INTEGER NOT NULL CHECK (settled IN (0, 1)),
    until   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE session_party (
    session TEXT    NOT NULL,
    peer    INTEGER NOT NULL,
    party   TEXT    NOT NULL,
    PRIMARY KEY (session, peer, party)
) STRICT, WITHOUT ROWID;

CREATE TABLE session_event (
    number     INTEGER PRIMARY KEY,
    event_id   TEXT    NOT NULL,
    owner      INTEGER NOT NULL,
    session    TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    -- How many local parties it names; NULL: it is for all.
    named      INTEGER,
    size       INTEGER NOT NULL,
    body       BLOB    NOT NULL
) STRICT;
-- The id stands first: it is looked for alone too.
CREATE UNIQUE INDEX session_event_id ON session_event (event_id, owner, session);
CREATE INDEX session_event_for_all ON session_event (number) WHERE named IS NULL;
CREATE INDEX session_event_expiry ON session_event (expires_at);

CREATE TABLE event_party (
    party TEXT    NOT NULL,
    event INTEGER NOT NULL,
    PRIMARY KEY (party, event)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_party_event ON event_party (event);
