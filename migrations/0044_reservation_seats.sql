-- The tickets of a reservation.
CREATE TABLE reservation_seats (
    reservation_id BINARY(16) NOT NULL,
    seat_no INT UNSIGNED NOT NULL,
    performance_id BINARY(16) NOT NULL,
    label VARCHAR(64) NOT NULL,
    grade VARCHAR(32) NOT NULL,
    price BIGINT NOT NULL,
    -- What the gate reads: random, so that none can be guessed.
    ticket_code CHAR(26) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- 1, or NULL once given back: with the unique key below a seat cannot be sold twice, whatever the code does.
    is_live TINYINT UNSIGNED NULL,
    PRIMARY KEY (reservation_id, seat_no),
    UNIQUE KEY one_sale (performance_id, seat_no, is_live),
    UNIQUE KEY by_code (ticket_code),
    CONSTRAINT reservation_seats_reservation FOREIGN KEY (reservation_id) REFERENCES reservations (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
