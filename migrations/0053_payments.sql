-- What was paid, how, and for what.
CREATE TABLE payments (
    id BINARY(16) NOT NULL PRIMARY KEY,
    user_id BINARY(16) NOT NULL,
    -- 0 points, 1 card.
    method TINYINT UNSIGNED NOT NULL,
    -- 0 pending, 1 succeeded, 2 failed, 3 refunded.
    state TINYINT UNSIGNED NOT NULL,
    -- 0 hold, 1 order, 2 points charge.
    subject_kind TINYINT UNSIGNED NOT NULL,
    subject_id BINARY(16) NOT NULL,
    amount BIGINT NOT NULL,
    created_at DATETIME(6) NOT NULL,
    changed_at DATETIME(6) NOT NULL,
    KEY by_subject (subject_kind, subject_id),
    KEY by_change (changed_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
