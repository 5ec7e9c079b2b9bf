-- Payments by card: an attempt is committed here before the provider hears of it, so that whatever happens afterwards, it is
-- known what to ask the provider about. Every column may be left out: rows of payments by points know nothing of them.
ALTER TABLE payments
    -- The provider's name for it (an intent), once known.
    ADD COLUMN provider_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NULL,
    -- The subject again, while the attempt is not decided: with the key below there is one such attempt at most.
    ADD COLUMN open_subject BINARY(16) NULL,
    -- The request that began it, while it is not decided: the same request does not begin a second one.
    ADD COLUMN open_key VARBINARY(255) NULL,
    ADD COLUMN fingerprint BINARY(32) NULL,
    -- What it becomes where it succeeds: a reservation's or a charge's id.
    ADD COLUMN result_id BINARY(16) NULL,
    -- Why it failed, or why it is given back.
    ADD COLUMN reason VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    -- While it is undecided (state 0) or owed back (state 4): when the provider is asked next.
    ADD COLUMN due_at DATETIME(6) NULL,
    -- How often it was asked since the state was entered.
    ADD COLUMN checks INT UNSIGNED NOT NULL DEFAULT 0,
    ADD UNIQUE KEY one_open (subject_kind, open_subject),
    ADD UNIQUE KEY one_request (user_id, open_key),
    -- Undecided ones apart from refunds, which may come by the thousand.
    ADD KEY by_due (state, due_at);
