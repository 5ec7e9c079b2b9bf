-- Two more orders of operators: a line that takes no newcomers, and a sale that is stopped altogether. Instances that do not know
-- them leave them as they are.
ALTER TABLE queue_sales
    ADD COLUMN joins_closed TINYINT UNSIGNED NOT NULL DEFAULT 0,
    ADD COLUMN is_stopped TINYINT UNSIGNED NOT NULL DEFAULT 0;
