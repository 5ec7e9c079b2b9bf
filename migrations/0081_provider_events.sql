-- What the payment provider told by webhook, so that each is acted upon once.
CREATE TABLE provider_events (
    id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    received_at DATETIME(6) NOT NULL,
    -- For forgetting them, long after the provider has stopped sending them again.
    KEY by_age (received_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
