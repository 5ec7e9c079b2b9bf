-- Mails on their way. A row says which letter goes to whom and about what, by ids alone: address, name and text are put together
-- when it is sent, so that nothing about a person waits here.
CREATE TABLE mails (
    id BINARY(16) NOT NULL PRIMARY KEY,
    -- 0 confirmation of a reservation, 1 verification of an address, 2 password reset.
    kind TINYINT UNSIGNED NOT NULL,
    user_id BINARY(16) NOT NULL,
    -- What it is about: the reservation, or the request. With the kind it makes a repeat harmless.
    reference BINARY(16) NOT NULL,
    -- 0 due, 1 sent, 2 dead (tried as often as it may be, or refused for good), 3 void (no longer true, or nobody to tell).
    state TINYINT UNSIGNED NOT NULL,
    attempts INT UNSIGNED NOT NULL DEFAULT 0,
    -- Rises with each claim: the result of an older one is not taken.
    fence INT UNSIGNED NOT NULL DEFAULT 0,
    -- While state is 0: when it may be claimed (again).
    due_at DATETIME(6) NOT NULL,
    -- What the last try ended with, in a word: no text of a mail server's, which would name the address.
    last_error VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
    created_at DATETIME(6) NOT NULL,
    changed_at DATETIME(6) NOT NULL,
    UNIQUE KEY once (kind, reference),
    KEY by_due (state, due_at),
    KEY by_age (state, changed_at),
    KEY by_user (user_id, state)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
