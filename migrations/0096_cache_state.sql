-- What every instance asks all the time to learn whether anything that caches keep has changed: one row.
CREATE TABLE cache_state (
    id TINYINT UNSIGNED NOT NULL PRIMARY KEY,
    -- The number of the last change. A change takes the next one in its own transaction and keeps this row locked until it
    -- commits, so that numbers become visible in their order, without gaps.
    change_no BIGINT UNSIGNED NOT NULL,
    -- Which life of the second tier is in use: raised after it was away and may have missed changes.
    generation BIGINT UNSIGNED NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
