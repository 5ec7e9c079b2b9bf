-- What operators did, written in the transaction of what they did: so that afterwards everybody knows who changed what, and when.
-- Rows are only ever added.
CREATE TABLE operator_actions (
    -- A UUIDv7: the newest first is the order of the ids backwards.
    id BINARY(16) NOT NULL PRIMARY KEY,
    operator_id BINARY(16) NOT NULL,
    action VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- NULL for what concerns no concert.
    concert_id BINARY(16) NULL,
    -- A JSON object: how it was before and after. Nothing about persons.
    details VARCHAR(2000) NOT NULL,
    created_at DATETIME(6) NOT NULL,
    KEY by_concert (concert_id, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
