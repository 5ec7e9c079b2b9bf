-- A week after a line was last moved nobody asks for the copy of its places any more: they are deleted, and the sale is marked,
-- so that it is not looked at again.
ALTER TABLE queue_sales
    ADD COLUMN is_tidy TINYINT UNSIGNED NOT NULL DEFAULT 0,
    ADD KEY by_tidy (is_tidy, checkpointed_at);
