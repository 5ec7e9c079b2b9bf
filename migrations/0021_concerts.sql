-- What is sold.
CREATE TABLE concerts (
    id BINARY(16) NOT NULL PRIMARY KEY,
    venue_id BINARY(16) NOT NULL,
    title VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NOT NULL,
    artist VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NOT NULL,
    description TEXT NOT NULL,
    booking_opens_at DATETIME(6) NOT NULL,
    booking_closes_at DATETIME(6) NOT NULL,
    -- Live holds and reservations over all performances together.
    seat_limit_per_buyer INT UNSIGNED NOT NULL,
    -- Grades with their prices and sections (JSON): read whole, fixed once the lobby is open.
    grades MEDIUMBLOB NOT NULL,
    -- Of the earliest performance and the cheapest grade: what lists show.
    first_performance_at DATETIME(6) NOT NULL,
    price_from BIGINT NOT NULL,
    -- 0 first come first served, 1 draw.
    queue_order TINYINT UNSIGNED NOT NULL,
    lobby_opens_at DATETIME(6) NULL,
    -- Hex SHA-256 of the draw's seed, published at creation.
    draw_commitment CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    created_at DATETIME(6) NOT NULL,
    -- Lists go from the newest id back, with or without a status.
    KEY by_opening (booking_opens_at),
    KEY by_closing (booking_closes_at),
    CONSTRAINT concerts_venue FOREIGN KEY (venue_id) REFERENCES venues (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
