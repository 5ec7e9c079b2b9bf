-- Which instances run: each says every few seconds that it is there. Rows of those that ended without a word go after an hour.
-- Instances that do not know the table are not listed.
CREATE TABLE instances (
    -- Made when the instance starts.
    id BINARY(16) NOT NULL PRIMARY KEY,
    -- The machine and the address that it listens on, for people.
    name VARCHAR(255) NOT NULL,
    started_at DATETIME(6) NOT NULL,
    seen_at DATETIME(6) NOT NULL,
    KEY by_sign (seen_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
