-- Who was let in. The pass itself is sealed and verified without this row; holding seats checks that it is live.
CREATE TABLE queue_passes (
    id BINARY(16) NOT NULL PRIMARY KEY,
    concert_id BINARY(16) NOT NULL,
    user_id BINARY(16) NOT NULL,
    arrival BIGINT UNSIGNED NOT NULL,
    -- 1, or NULL once ended: so the unique key allows one live pass per sale and user.
    is_live TINYINT UNSIGNED NULL,
    expires_at DATETIME(6) NOT NULL,
    ended_at DATETIME(6) NULL,
    created_at DATETIME(6) NOT NULL,
    UNIQUE KEY one_live (concert_id, user_id, is_live),
    -- A place is exchanged for a slot once.
    UNIQUE KEY one_per_place (concert_id, arrival),
    -- For counting and ending the live ones of a sale.
    KEY by_live (concert_id, is_live, expires_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
