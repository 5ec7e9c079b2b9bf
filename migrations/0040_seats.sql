-- The truth about every seat of every performance.
CREATE TABLE seats (
    performance_id BINARY(16) NOT NULL,
    -- The seat's index in the seat map, from 0. Locks are taken in this order.
    seat_no INT UNSIGNED NOT NULL,
    label VARCHAR(64) NOT NULL,
    grade VARCHAR(32) NOT NULL,
    price BIGINT NOT NULL,
    -- Held while held_until lies ahead; what lies behind means nothing, whoever sweeps it or not.
    hold_id BINARY(16) NULL,
    held_until DATETIME(6) NULL,
    -- Sold.
    reservation_id BINARY(16) NULL,
    PRIMARY KEY (performance_id, seat_no),
    CONSTRAINT seats_sold_or_held CHECK (reservation_id IS NULL OR hold_id IS NULL)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
