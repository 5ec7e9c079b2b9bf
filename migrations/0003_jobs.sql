-- Scheduled work: one row a job, claimed by one instance at a time.
CREATE TABLE jobs (
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    every_secs INT UNSIGNED NOT NULL,
    due_at DATETIME(6) NOT NULL,
    -- An instance that dies leaves a lease that lapses.
    leased_until DATETIME(6) NULL,
    -- Rises with each claim: a finisher with an old number is refused.
    fence BIGINT UNSIGNED NOT NULL,
    last_result VARCHAR(500) NULL,
    last_ended_at DATETIME(6) NULL,
    -- When the last run that succeeded began: what changed since then was not worked on completely.
    last_ok_at DATETIME(6) NULL,
    KEY by_due (due_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
