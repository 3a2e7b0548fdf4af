-- What this node accepted in each session, in the order of the commits: a hash
-- chain, kept as long as the session, and from the front no longer than its
-- messages.

CREATE TABLE slot (
    session  TEXT    NOT NULL,
    -- From 1, without a hole.
    position INTEGER NOT NULL,
    -- NULL: another server's message that was here already; nothing was
    -- delivered for it.
    message  INTEGER,
    -- The link before this one: what is kept can be verified from its start.
    before   BLOB    NOT NULL,
    -- What is hashed between the session and the digest of the payload.
    entry    BLOB    NOT NULL,
    digest   BLOB    NOT NULL,
    -- Of a broadcast: what its round, type and sender stand for, of which there
    -- should be one digest only.
    claim    BLOB,
    -- Of a broadcast: the key of its sender's node, and that node's signature.
    proof    BLOB
) STRICT;
-- Beside the rows, not their order: many sessions at once would write a page
-- of large rows for each, where here it is one of small entries.
CREATE UNIQUE INDEX slot_chain ON slot (session, position);
CREATE INDEX slot_claim ON slot (session, claim, digest, position) WHERE claim IS NOT NULL;

-- Claims with more than one digest; as long as their session. No number is
-- given twice: who reads after one misses none.
CREATE TABLE equivocation (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    session TEXT NOT NULL,
    claim   BLOB NOT NULL,
    -- Of the slot that showed it.
    entry   BLOB NOT NULL,
    UNIQUE (session, claim)
) STRICT;
