-- Who keeps the line: 0 Redis, 1 these tables while Redis is away. It changes together with the epoch, under this row's lock.
-- run_id names the Redis that the line was last made in: an instance that sees another one is cut off from the others, or
-- first to see a new one. An instance of the version before always asks Redis; nothing that it says passes for the epoch.
ALTER TABLE queue_sales
    ADD COLUMN in_charge TINYINT UNSIGNED NOT NULL DEFAULT 0,
    ADD COLUMN run_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '';
