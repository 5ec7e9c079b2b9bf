-- A buyer's own list goes from the newest id back. by_user has the concert in between, so the server had to read all that
-- the buyer ever held and sort it, or to walk back through everybody's holds.
ALTER TABLE holds ADD KEY by_owner (user_id, id), ALGORITHM = INPLACE, LOCK = NONE;
