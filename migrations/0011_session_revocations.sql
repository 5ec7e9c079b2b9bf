-- Access tokens are sealed and not stored; this is what takes them back before they expire.
CREATE TABLE session_revocations (
    id BINARY(16) NOT NULL PRIMARY KEY,
    -- One session, or (where NULL) every session of the user.
    session_id BINARY(16) NULL,
    user_id BINARY(16) NOT NULL,
    -- Every instance rereads the newest seconds of this, each second, with an overlap.
    created_at DATETIME(6) NOT NULL,
    -- When the last token concerned is expired anyway.
    expires_at DATETIME(6) NOT NULL,
    KEY by_creation (created_at),
    KEY by_expiry (expires_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
