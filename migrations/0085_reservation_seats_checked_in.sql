-- A ticket opens a gate once: when it did, and who stood there. NULL while it has not. A version that does not know the
-- columns neither reads nor writes them.
ALTER TABLE reservation_seats
    ADD COLUMN checked_in_at DATETIME(6) NULL,
    -- The operator whose gate it was.
    ADD COLUMN checked_in_by BINARY(16) NULL;
