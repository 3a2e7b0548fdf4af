-- Whether a peer takes parcels, as its `Key` said when it was asked last.
ALTER TABLE peer ADD COLUMN parcels INTEGER NOT NULL DEFAULT 0 CHECK (parcels IN (0, 1));
