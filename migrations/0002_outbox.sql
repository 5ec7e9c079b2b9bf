-- What must happen after a commit, written by that commit.
CREATE TABLE outbox (
    id BINARY(16) NOT NULL PRIMARY KEY,
    topic VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    aggregate_id BINARY(16) NOT NULL,
    -- The position among this aggregate's events: consumers order by it.
    version INT UNSIGNED NOT NULL,
    payload MEDIUMBLOB NOT NULL,
    -- 0 due, 1 sent. Rows are claimed by state, never by id: ids become visible out of order.
    state TINYINT UNSIGNED NOT NULL,
    attempts INT UNSIGNED NOT NULL DEFAULT 0,
    -- While state is 0: when the row may be claimed (again).
    due_at DATETIME(6) NOT NULL,
    created_at DATETIME(6) NOT NULL,
    KEY by_state (state, due_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
