-- In which order a node tells its readers what is said, where that is not the
-- order of the chat: after a home came from a backup, words stand elsewhere.
--
-- A telling has the chat above it, as a message's key.

-- The telling at which this node told it first; NULL: that of its key.
ALTER TABLE chat_message ADD COLUMN told INTEGER;
-- Who saw it goes on behind this telling; NULL: behind its own.
ALTER TABLE chat_message ADD COLUMN resume INTEGER;
-- A revision: who saw it before it stood here has seen what stands up to there;
-- NULL: nobody did.
ALTER TABLE chat_message ADD COLUMN since INTEGER;
CREATE UNIQUE INDEX chat_message_told ON chat_message (told) WHERE told IS NOT NULL;

-- The same of what waits again after a log was cut back; `told` NULL: it was not told.
ALTER TABLE chat_post ADD COLUMN told INTEGER;
ALTER TABLE chat_post ADD COLUMN resume INTEGER;
ALTER TABLE chat_post ADD COLUMN since INTEGER;
CREATE UNIQUE INDEX chat_post_told ON chat_post (told) WHERE told IS NOT NULL;

-- At home: behind this revision stand words of others that were put there before
-- this peer had told that it holds nothing that is forgotten here; NULL: none do.
ALTER TABLE chat_link ADD COLUMN behind INTEGER;
