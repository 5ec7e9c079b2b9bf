-- Which accounts it moved between. Every transaction's entries sum to zero.
CREATE TABLE ledger_entries (
    transaction_id BINARY(16) NOT NULL,
    line TINYINT UNSIGNED NOT NULL,
    -- 0 buyer's points, 1 card provider, 2 revenue, 3 grants by the house.
    account TINYINT UNSIGNED NOT NULL,
    -- The buyer, for account 0. The other accounts have no row of their own: a balance that every sale
    -- updates would be the slowest row in the house, so theirs is the sum of their entries.
    user_id BINARY(16) NULL,
    amount BIGINT NOT NULL,
    -- The buyer's entries are numbered from 1 under the lock of the buyer's balance, so their order is the order
    -- in which they took effect, whichever instance made them.
    user_entry INT UNSIGNED NULL,
    -- The buyer's balance after it.
    balance_after BIGINT NULL,
    PRIMARY KEY (transaction_id, line),
    -- Two entries made from the same balance would have the same number: this refuses the second.
    UNIQUE KEY by_user (user_id, user_entry),
    CONSTRAINT ledger_entries_transaction FOREIGN KEY (transaction_id) REFERENCES ledger_transactions (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
