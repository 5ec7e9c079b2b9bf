-- Concerts that were cancelled, and how far giving the money back has got. What is still to be given back is told by the
-- reservations themselves; the sums here are written by the transaction of each refund.
CREATE TABLE concert_cancellations (
    concert_id BINARY(16) NOT NULL PRIMARY KEY,
    operator_id BINARY(16) NOT NULL,
    -- 0 while money is given back, 1 once nobody has any coming.
    state TINYINT UNSIGNED NOT NULL DEFAULT 0,
    -- Reservations given back by it so far, and what they cost.
    done INT UNSIGNED NOT NULL DEFAULT 0,
    refunded_amount BIGINT NOT NULL DEFAULT 0,
    requested_at DATETIME(6) NOT NULL,
    finished_at DATETIME(6) NULL,
    -- Those that are not finished, the oldest first.
    KEY by_state (state, requested_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
