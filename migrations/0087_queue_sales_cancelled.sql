-- The concert was cancelled: nothing of it is held, paid or claimed any more, ever. In the row that those transactions read
-- anyway for a stop. is_stopped is set beside it, which a version that does not know this column obeys; its operators could
-- resume the sale there, and here it stays cancelled all the same.
ALTER TABLE queue_sales
    ADD COLUMN is_cancelled TINYINT UNSIGNED NOT NULL DEFAULT 0;
