-- What proves that somebody reads a user's mail. The token itself is in the mail alone; here is its hash.
CREATE TABLE user_tokens (
    -- SHA-256 of the token's 32 random bytes.
    hash BINARY(32) NOT NULL PRIMARY KEY,
    user_id BINARY(16) NOT NULL,
    -- 0 verifies the address, 1 sets a new password.
    kind TINYINT UNSIGNED NOT NULL,
    created_at DATETIME(6) NOT NULL,
    expires_at DATETIME(6) NOT NULL,
    -- Set by the one statement that uses it.
    used_at DATETIME(6) NULL,
    -- For counting a user's, and for taking them all back.
    KEY by_user (user_id, kind, created_at),
    KEY by_age (expires_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
