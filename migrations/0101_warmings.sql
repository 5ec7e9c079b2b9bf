-- What is loaded into the caches before a crowd comes: a row for each opening of a concert's doors, and for an operator's order.
-- Rows of openings are derived from the concerts' hours again and again, by every instance, so that a row is right whoever wrote
-- or moved the hours, an instance that does not know the table included.
CREATE TABLE warmings (
    concert_id BINARY(16) NOT NULL,
    -- 0 the lobby opens, 1 booking opens, 2 an operator's order.
    occasion TINYINT UNSIGNED NOT NULL,
    -- The opening; for an order, when it was given.
    opens_at DATETIME(6) NOT NULL,
    -- 0 due at due_at, 1 the shared caches are filled, 2 given up.
    state TINYINT UNSIGNED NOT NULL,
    -- While state is 0: when it may be claimed (again).
    due_at DATETIME(6) NOT NULL,
    -- An instance that dies leaves a lease that lapses.
    leased_until DATETIME(6) NULL,
    -- Rises with each claim, and where the opening moves: the result of an older claim is not taken.
    fence INT UNSIGNED NOT NULL,
    -- How often the shared caches were filled: every instance fills its own memory after each.
    round INT UNSIGNED NOT NULL,
    -- Tries since the last success that came to an end.
    attempts INT UNSIGNED NOT NULL,
    filled_at DATETIME(6) NULL,
    -- What the last try ended with, in a word.
    last_error VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    changed_at DATETIME(6) NOT NULL,
    PRIMARY KEY (concert_id, occasion),
    KEY by_due (state, due_at),
    -- For orders, and for forgetting.
    KEY by_opening (occasion, opens_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
