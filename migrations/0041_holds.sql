-- Seats set aside for one buyer for a few minutes.
CREATE TABLE holds (
    id BINARY(16) NOT NULL PRIMARY KEY,
    user_id BINARY(16) NOT NULL,
    concert_id BINARY(16) NOT NULL,
    performance_id BINARY(16) NOT NULL,
    -- 0 held, 1 paid, 2 released. Expired is held whose end lies behind.
    state TINYINT UNSIGNED NOT NULL,
    seat_count INT UNSIGNED NOT NULL,
    -- Fixed when the hold is made.
    amount BIGINT NOT NULL,
    expires_at DATETIME(6) NOT NULL,
    created_at DATETIME(6) NOT NULL,
    changed_at DATETIME(6) NOT NULL,
    -- A buyer's own list, and what counts against their limit.
    KEY by_user (user_id, concert_id, state, expires_at),
    -- For the audit of what changed.
    KEY by_change (changed_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
