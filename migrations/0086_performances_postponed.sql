-- A performance may be moved to a later date: whoever paid before that may give the tickets back until it begins, so the last
-- moving is remembered. The count numbers its events.
ALTER TABLE performances
    ADD COLUMN postponed_at DATETIME(6) NULL,
    ADD COLUMN postponements INT UNSIGNED NOT NULL DEFAULT 0;
