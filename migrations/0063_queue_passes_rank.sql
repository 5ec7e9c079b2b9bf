-- The rank by which a place was called. NULL in rows of the version before, which knows no draw: there it is the arrival.
ALTER TABLE queue_passes
    ADD COLUMN place_rank BIGINT UNSIGNED NULL,
    ADD KEY by_rank (concert_id, place_rank);
