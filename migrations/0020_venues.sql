-- Halls. The layout is one document: it is written once and always read whole.
CREATE TABLE venues (
    id BINARY(16) NOT NULL PRIMARY KEY,
    name VARCHAR(200) NOT NULL,
    city VARCHAR(100) NOT NULL,
    -- Sections with rows of seats, or with a capacity, as the operator sent them (JSON).
    layout MEDIUMBLOB NOT NULL,
    seats_total INT UNSIGNED NOT NULL,
    created_at DATETIME(6) NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
