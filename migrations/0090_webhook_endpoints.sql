-- Who is told of events by HTTP. As many as there are slots; a removed one gives up its slot and its address at once, and its
-- row goes when its deliveries are gone. Instances that do not know the table tell nobody.
CREATE TABLE webhook_endpoints (
    id BINARY(16) NOT NULL PRIMARY KEY,
    -- From 0 to the configured number: the unique key bounds how many there are. NULL once removed.
    slot TINYINT UNSIGNED NULL,
    -- As URLs are written: ASCII. NULL once removed.
    url VARCHAR(1000) CHARACTER SET ascii COLLATE ascii_bin NULL,
    -- What it is told of, separated by commas.
    topics VARCHAR(1000) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- What its deliveries are signed with, sealed by a key of the installation; empty once removed.
    secret_sealed VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- 0 active, 1 disabled because it answered 410, 2 removed.
    state TINYINT UNSIGNED NOT NULL,
    created_at DATETIME(6) NOT NULL,
    changed_at DATETIME(6) NOT NULL,
    UNIQUE KEY one_per_slot (slot),
    UNIQUE KEY one_per_url (url)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
