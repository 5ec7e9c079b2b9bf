-- One evening of a concert.
CREATE TABLE performances (
    id BINARY(16) NOT NULL PRIMARY KEY,
    concert_id BINARY(16) NOT NULL,
    starts_at DATETIME(6) NOT NULL,
    seats_total INT UNSIGNED NOT NULL,
    KEY by_concert (concert_id, starts_at),
    CONSTRAINT performances_concert FOREIGN KEY (concert_id) REFERENCES concerts (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
