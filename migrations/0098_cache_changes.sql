-- What changed of what caches keep, written by the transactions of the changes. An instance reads what it has not heard of; one that
-- starts reads the last ones, as older values may still be in the second tier. Kept for two days, longer than any value.
CREATE TABLE cache_changes (
    change_no BIGINT UNSIGNED NOT NULL PRIMARY KEY,
    -- Which cache.
    cache VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- The key as text; empty: all of the cache.
    subject VARCHAR(128) NOT NULL,
    created_at DATETIME(6) NOT NULL,
    KEY by_age (created_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
