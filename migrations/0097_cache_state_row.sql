-- The row is there from the start, so that changes only ever update it: two that inserted it at once would lock each other out.
INSERT INTO cache_state (id, change_no, generation) VALUES (1, 0, 1);
