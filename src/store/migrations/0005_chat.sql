-- Chats: their users, what was said, and what waits to be numbered by its home.
--
-- A chat's number is given by its maker; a message's key is the chat's number
-- shifted by 32 bits, and the revision. A server is named by its peer row; 0 is
-- this node. Columns that are NULL here belong to members and marks, which
-- nothing writes yet.

-- Whether a peer takes letters of chats, as its `Key` said when it was asked last.
ALTER TABLE peer ADD COLUMN chat INTEGER NOT NULL DEFAULT 0 CHECK (chat IN (0, 1));

CREATE TABLE chat_topic (
    number     INTEGER PRIMARY KEY,
    chat       BLOB    NOT NULL UNIQUE,
    -- Hash of its users as peer rows and names: a rename leaves it as it is.
    members    BLOB    NOT NULL,
    -- The peer that gives the order; 0: this node.
    home       INTEGER NOT NULL,
    -- Home was silent for so long that posts were given up.
    lost       INTEGER NOT NULL CHECK (lost IN (0, 1)),
    -- Who made it: a principal of this node, or a peer.
    maker      TEXT,
    maker_peer INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX chat_topic_members ON chat_topic (members);
CREATE INDEX chat_topic_maker ON chat_topic (maker_peer, maker);

CREATE TABLE chat_member (
    topic     INTEGER NOT NULL,
    -- In the sorted list of names.
    place     INTEGER NOT NULL,
    peer      INTEGER NOT NULL,
    name      TEXT    NOT NULL,
    -- name@server as it stands in that list: of the day the chat was made.
    qualified TEXT    NOT NULL,
    want      TEXT,
    given     TEXT,
    read_seq  INTEGER,
    recv_seq  INTEGER,
    PRIMARY KEY (topic, place)
) STRICT, WITHOUT ROWID;

-- The peers that a chat's home, or a replica, talks to about it.
CREATE TABLE chat_link (
    peer       INTEGER NOT NULL,
    topic      INTEGER NOT NULL,
    introduced INTEGER NOT NULL CHECK (introduced IN (0, 1)),
    PRIMARY KEY (peer, topic)
) STRICT, WITHOUT ROWID;
CREATE INDEX chat_link_topic ON chat_link (topic, peer, introduced);

CREATE TABLE chat_message (
    key       INTEGER PRIMARY KEY,
    -- NULL: what home sent for this revision was refused here.
    id        BLOB,
    seq       INTEGER NOT NULL,
    -- Hash over the ids of the log up to here.
    chain     INTEGER NOT NULL,
    author    INTEGER NOT NULL,
    sent_at   INTEGER NOT NULL,
    client_id TEXT    NOT NULL,
    -- Of the author's node; NULL: this one, which signs when it is asked.
    signature BLOB,
    head      BLOB    NOT NULL,
    content   BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX chat_message_id ON chat_message (id);

-- Accepted here, and not numbered by home yet.
CREATE TABLE chat_post (
    topic     INTEGER NOT NULL,
    place     INTEGER NOT NULL,
    id        BLOB    NOT NULL UNIQUE,
    stored_at INTEGER NOT NULL,
    failed    INTEGER NOT NULL CHECK (failed IN (0, 1)),
    author    INTEGER NOT NULL,
    sent_at   INTEGER NOT NULL,
    client_id TEXT    NOT NULL,
    signature BLOB,
    head      BLOB    NOT NULL,
    content   BLOB    NOT NULL,
    PRIMARY KEY (topic, place)
) STRICT;
CREATE INDEX chat_post_age ON chat_post (stored_at) WHERE failed = 0;

-- Bytes that the letters of a peer made this node keep.
CREATE TABLE chat_usage (
    peer  INTEGER PRIMARY KEY,
    bytes INTEGER NOT NULL
) STRICT;
