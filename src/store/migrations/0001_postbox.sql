-- The postbox: peers, their streams, queues, dead letters, lists and tokens.
--
-- A u64 (random row ids, user and guild ids, epochs) is kept as the i64 of the
-- same 64 bits. Moments are milliseconds since the Unix epoch. Rows name a
-- server by its peer row, so that a rename is one UPDATE.

-- This node. The counters are kept apart from the rows they number, so that
-- no number is given twice even when all rows are gone.
CREATE TABLE node (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    server_id   TEXT,
    -- Where it listened last; port 0 takes it again.
    port        INTEGER,
    next_number INTEGER NOT NULL,
    next_cursor INTEGER NOT NULL
) STRICT;
INSERT INTO node (id, server_id, next_number, next_cursor) VALUES (1, NULL, 1, 1);

-- Ids this node had before, and until when it still answers to them.
CREATE TABLE former_id (
    server_id TEXT PRIMARY KEY,
    until     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE peer (
    id             INTEGER PRIMARY KEY,
    server_id      TEXT    NOT NULL UNIQUE,
    origin         TEXT    NOT NULL CHECK (origin IN ('operator', 'learnt')),
    host           TEXT,
    port           INTEGER,
    plaintext      INTEGER NOT NULL CHECK (plaintext IN (0, 1)),
    key            BLOB,
    key_origin     TEXT    CHECK (key_origin IN ('operator', 'learnt')),
    kind           TEXT    NOT NULL CHECK (kind IN ('unknown', 'stock', 'pillarbox')),
    transport      TEXT    NOT NULL CHECK (transport IN ('unknown', 'grpc', 'hrpc')),
    known_as       TEXT,
    next_id        TEXT,
    held           INTEGER NOT NULL CHECK (held IN (0, 1)),
    removed        INTEGER NOT NULL CHECK (removed IN (0, 1)),
    created_at     INTEGER NOT NULL,
    outbound_ok_at INTEGER,
    inbound_ok_at  INTEGER,
    CHECK ((key IS NULL) = (key_origin IS NULL)),
    CHECK ((host IS NULL) = (port IS NULL))
) STRICT;

CREATE TABLE peer_former (
    peer      INTEGER NOT NULL,
    server_id TEXT    NOT NULL,
    PRIMARY KEY (peer, server_id)
) STRICT, WITHOUT ROWID;

-- Our stream to a peer: what it has settled last.
CREATE TABLE stream_out (
    peer       INTEGER PRIMARY KEY,
    epoch      INTEGER NOT NULL,
    settled    INTEGER NOT NULL,
    settled_id INTEGER NOT NULL,
    queued     INTEGER NOT NULL CHECK (queued IN (0, 1))
) STRICT;

-- A peer's stream to us: what was applied last.
CREATE TABLE stream_in (
    peer    INTEGER PRIMARY KEY,
    epoch   INTEGER NOT NULL,
    mark    INTEGER NOT NULL,
    mark_id INTEGER NOT NULL
) STRICT;

-- The body stands last: what is before it is read without its pages.
CREATE TABLE outbox (
    number    INTEGER PRIMARY KEY,
    peer      INTEGER NOT NULL,
    id        INTEGER NOT NULL,
    stored_at INTEGER NOT NULL,
    size      INTEGER NOT NULL,
    body      BLOB    NOT NULL
) STRICT;
-- Covers counting and the choice of a page, so that neither reads a body.
CREATE INDEX outbox_queue ON outbox (peer, number, size);

CREATE TABLE inbound (
    cursor      INTEGER PRIMARY KEY,
    peer        INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    size        INTEGER NOT NULL,
    body        BLOB    NOT NULL
) STRICT;

-- Letters that could not be delivered (out) or taken (in), and holes that were
-- stepped over (number..last_number, no body).
CREATE TABLE dead (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    peer        INTEGER NOT NULL,
    direction   TEXT    NOT NULL CHECK (direction IN ('in', 'out')),
    reason      TEXT    NOT NULL,
    died_at     INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    last_number INTEGER NOT NULL,
    row_id      INTEGER NOT NULL,
    size        INTEGER NOT NULL,
    body        BLOB    NOT NULL
) STRICT;
CREATE INDEX dead_share ON dead (peer, id, size);
CREATE INDEX dead_sent ON dead (peer, number) WHERE direction = 'out';

CREATE TABLE guild (
    user_id  INTEGER NOT NULL,
    guild_id INTEGER NOT NULL,
    peer     INTEGER NOT NULL,
    PRIMARY KEY (user_id, guild_id, peer)
) STRICT, WITHOUT ROWID;

CREATE TABLE invite (
    user_id    INTEGER NOT NULL,
    invite_id  TEXT    NOT NULL,
    peer       INTEGER NOT NULL,
    inviter_id INTEGER NOT NULL,
    PRIMARY KEY (user_id, invite_id, peer)
) STRICT, WITHOUT ROWID;

-- The token itself is never kept, only its SHA-256.
CREATE TABLE token (
    hash         BLOB    PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE,
    principal    TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER
) STRICT, WITHOUT ROWID;
