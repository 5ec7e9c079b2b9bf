-- Answers that took effect, kept so that a repeated request gets them again instead of a second effect.
CREATE TABLE idempotency_keys (
    user_id BINARY(16) NOT NULL,
    -- As the client sent it; compared byte for byte, which no collation does: they ignore spaces at the end.
    request_key VARBINARY(255) NOT NULL,
    -- SHA-256 of method, path and body: the same key with another request is refused.
    fingerprint BINARY(32) NOT NULL,
    -- 0 while its transaction runs; nobody ever reads that state, because it is never committed.
    status SMALLINT UNSIGNED NOT NULL,
    body MEDIUMBLOB NOT NULL,
    created_at DATETIME(6) NOT NULL,
    PRIMARY KEY (user_id, request_key),
    -- For forgetting the oldest first.
    KEY by_age (created_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
