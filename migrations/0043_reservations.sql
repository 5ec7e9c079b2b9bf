-- Seats that were paid for.
CREATE TABLE reservations (
    id BINARY(16) NOT NULL PRIMARY KEY,
    -- A hold is paid once.
    hold_id BINARY(16) NOT NULL,
    user_id BINARY(16) NOT NULL,
    concert_id BINARY(16) NOT NULL,
    performance_id BINARY(16) NOT NULL,
    payment_id BINARY(16) NOT NULL,
    -- 0 pending, 1 confirmed, 2 cancelled, 3 refunded.
    state TINYINT UNSIGNED NOT NULL,
    seat_count INT UNSIGNED NOT NULL,
    amount BIGINT NOT NULL,
    created_at DATETIME(6) NOT NULL,
    paid_at DATETIME(6) NULL,
    changed_at DATETIME(6) NOT NULL,
    UNIQUE KEY one_per_hold (hold_id),
    KEY by_user (user_id, id),
    KEY by_limit (user_id, concert_id, state),
    KEY by_change (changed_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
