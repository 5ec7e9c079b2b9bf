-- A buyer's balance: guarded, and always the sum of the buyer's ledger entries.
CREATE TABLE points_accounts (
    user_id BINARY(16) NOT NULL PRIMARY KEY,
    balance BIGINT NOT NULL,
    -- How many ledger entries the buyer has: the number of the newest one.
    entries INT UNSIGNED NOT NULL,
    changed_at DATETIME(6) NOT NULL,
    KEY by_change (changed_at),
    CONSTRAINT points_accounts_balance CHECK (balance >= 0)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
