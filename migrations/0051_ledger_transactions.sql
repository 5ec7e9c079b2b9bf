-- Why money moved.
CREATE TABLE ledger_transactions (
    id BINARY(16) NOT NULL PRIMARY KEY,
    -- 0 charge, 1 payment, 2 refund, 3 grant.
    kind TINYINT UNSIGNED NOT NULL,
    -- What it was for: a charge's, payment's or refund's id.
    reference BINARY(16) NOT NULL,
    created_at DATETIME(6) NOT NULL,
    -- The same thing is never booked twice in the same way.
    UNIQUE KEY once (kind, reference),
    KEY by_age (created_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
