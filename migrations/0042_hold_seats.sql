-- The seats of a hold, at the prices of that moment.
CREATE TABLE hold_seats (
    hold_id BINARY(16) NOT NULL,
    seat_no INT UNSIGNED NOT NULL,
    label VARCHAR(64) NOT NULL,
    grade VARCHAR(32) NOT NULL,
    price BIGINT NOT NULL,
    PRIMARY KEY (hold_id, seat_no),
    CONSTRAINT hold_seats_hold FOREIGN KEY (hold_id) REFERENCES holds (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
