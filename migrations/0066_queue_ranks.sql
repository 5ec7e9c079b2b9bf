-- The ranks of such a line that do not merely wait, one row each. Rows of earlier epochs are worth nothing and are deleted in
-- the background.
CREATE TABLE queue_ranks (
    concert_id BINARY(16) NOT NULL,
    epoch INT UNSIGNED NOT NULL,
    -- A rank; before the draw the arrival of a place that was given up.
    place BIGINT UNSIGNED NOT NULL,
    -- 1 called, 2 present (called, and asked while all slots were taken), 3 admitted, 4 finished, 5 left after its call,
    -- 6 given up before its call, 7 given up in the lobby before the draw (place is an arrival), 8 a ghost: a rank of the lobby
    -- that nobody is known to have.
    state TINYINT UNSIGNED NOT NULL,
    -- When the window or the slot ends; of a ghost, once it was called.
    ends_at DATETIME(6) NULL,
    -- In which order places were given up.
    seq BIGINT UNSIGNED NULL,
    PRIMARY KEY (concert_id, epoch, place, state),
    KEY by_state (concert_id, epoch, state, ends_at),
    KEY by_seq (concert_id, epoch, seq)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
