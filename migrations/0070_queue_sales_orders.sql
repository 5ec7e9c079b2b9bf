-- Two more orders of operators: a line that takes no newcomers, and a sale that is stopped altogether. Each change of the rules is
-- counted, so that an instance that read them earlier does not forget what it was told since. Instances that do not know these
-- columns leave them as they are.
ALTER TABLE queue_sales
    ADD COLUMN joins_closed TINYINT UNSIGNED NOT NULL DEFAULT 0,
    ADD COLUMN is_stopped TINYINT UNSIGNED NOT NULL DEFAULT 0,
    ADD COLUMN rules_version INT UNSIGNED NOT NULL DEFAULT 0;
