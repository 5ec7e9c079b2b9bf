-- Holds that came to nothing are forgotten some weeks after they ended. Paid ones stay for ever: without this key each run would
-- read past all of them.
ALTER TABLE holds ADD KEY by_end (state, expires_at), ALGORITHM = INPLACE, LOCK = NONE;
