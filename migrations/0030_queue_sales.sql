-- The line of one concert: its rules, and what must survive the loss of Redis.
CREATE TABLE queue_sales (
    concert_id BINARY(16) NOT NULL PRIMARY KEY,
    admit_per_second INT UNSIGNED NOT NULL,
    max_active INT UNSIGNED NOT NULL,
    claim_secs INT UNSIGNED NOT NULL,
    session_secs INT UNSIGNED NOT NULL,
    is_paused TINYINT UNSIGNED NOT NULL DEFAULT 0,
    -- Lowering max_active does not end sessions: until the last of the old ones can have ended, this cap holds.
    earlier_max_active INT UNSIGNED NOT NULL DEFAULT 0,
    earlier_until DATETIME(6) NULL,
    -- The draw's seed, sealed: not readable by whoever reads this table.
    seed_sealed VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- Raised whenever Redis is rebuilt: what carries an older one changes nothing.
    epoch INT UNSIGNED NOT NULL DEFAULT 1,
    -- No arrival index at or above it was ever issued.
    issued_ceiling BIGINT UNSIGNED NOT NULL DEFAULT 0,
    -- Indices issued, as of the last checkpoint: who came later is in the gap up to the ceiling.
    issued BIGINT UNSIGNED NOT NULL DEFAULT 0,
    -- Ranks called, as of the last checkpoint. Never goes back.
    serving BIGINT UNSIGNED NOT NULL DEFAULT 0,
    checkpointed_at DATETIME(6) NULL,
    -- Ranks that nobody is known to have, as `from-below,` pairs: each loss of Redis leaves one, up to the ceiling of that moment.
    gaps VARCHAR(4000) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
    lobby_size BIGINT UNSIGNED NULL,
    CONSTRAINT queue_sales_concert FOREIGN KEY (concert_id) REFERENCES concerts (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
