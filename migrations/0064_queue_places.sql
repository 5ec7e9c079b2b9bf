-- A copy of who has which place, written a moment after Redis gave it: a buyer who comes without a ticket after Redis has
-- lost its users gets the same place again. What a buyer has given up is written before the answer.
CREATE TABLE queue_places (
    concert_id BINARY(16) NOT NULL,
    arrival BIGINT UNSIGNED NOT NULL,
    user_id BINARY(16) NOT NULL,
    has_left TINYINT UNSIGNED NOT NULL DEFAULT 0,
    PRIMARY KEY (concert_id, arrival),
    -- The newest place of a user.
    KEY by_user (concert_id, user_id, arrival),
    -- For telling a line that is made anew.
    KEY by_left (concert_id, has_left, arrival)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
