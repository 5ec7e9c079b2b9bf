-- An event on its way to one endpoint. The primary key makes a repeated event harmless; one that has left lies here until a
-- retention job takes it.
CREATE TABLE webhook_deliveries (
    endpoint_id BINARY(16) NOT NULL,
    event_id BINARY(16) NOT NULL,
    topic VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- Sent and signed as it is. Ids and facts of a sale, nothing about persons.
    body MEDIUMBLOB NOT NULL,
    -- 0 due, 1 accepted, 2 dead: tried as often as it may be.
    state TINYINT UNSIGNED NOT NULL,
    -- Tries that came to an end.
    attempts INT UNSIGNED NOT NULL DEFAULT 0,
    -- Rises with each claim: the result of an older one is not taken.
    fence INT UNSIGNED NOT NULL DEFAULT 0,
    -- While state is 0: when it may be claimed (again).
    due_at DATETIME(6) NOT NULL,
    -- What the last try ended with: an HTTP status where there was one, and a word.
    last_status SMALLINT UNSIGNED NULL,
    last_error VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
    created_at DATETIME(6) NOT NULL,
    changed_at DATETIME(6) NOT NULL,
    PRIMARY KEY (endpoint_id, event_id),
    KEY by_due (endpoint_id, state, due_at),
    -- For dead letters, and for forgetting.
    KEY by_age (state, changed_at, event_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
