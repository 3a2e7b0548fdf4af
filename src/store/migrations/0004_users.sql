-- The users of this node, and whose device session a token is.

-- The row of a deleted user stays, so that neither its id nor its name is ever
-- another person's. An id is random and positive.
CREATE TABLE local_user (
    id         INTEGER PRIMARY KEY CHECK (id > 0),
    name       TEXT    NOT NULL UNIQUE,
    state      TEXT    NOT NULL CHECK (state IN ('active', 'disabled', 'deleted')),
    created_at INTEGER NOT NULL
) STRICT;

-- Set exactly where the principal is a user.
ALTER TABLE token ADD COLUMN user_id INTEGER;
ALTER TABLE token ADD COLUMN user_agent TEXT;
CREATE INDEX token_user ON token (user_id, created_at) WHERE user_id IS NOT NULL;

-- Users were names in tokens so far. A name that no user may have goes, with
-- its tokens: no service took them.
INSERT INTO local_user (id, name, state, created_at)
    SELECT max(1, random() & 9223372036854775807), name, 'active', made_at
    FROM (SELECT substr(principal, 6) AS name, min(created_at) AS made_at FROM token
          WHERE substr(principal, 1, 5) = 'user:' GROUP BY principal)
    WHERE length(name) BETWEEN 1 AND 64 AND name NOT GLOB '*[^a-zA-Z0-9._-]*';
UPDATE token SET user_id = (SELECT id FROM local_user WHERE name = substr(principal, 6))
    WHERE substr(principal, 1, 5) = 'user:';
DELETE FROM token WHERE substr(principal, 1, 5) = 'user:' AND user_id IS NULL;
