-- What each instance has in its own memory, as it says itself: so that an operator sees which instance is warm, and until when.
CREATE TABLE warm_memories (
    concert_id BINARY(16) NOT NULL,
    instance_id BINARY(16) NOT NULL,
    -- When the instance began to load it.
    since DATETIME(6) NOT NULL,
    -- Until when no part of it is to be renewed.
    kept_until DATETIME(6) NOT NULL,
    PRIMARY KEY (concert_id, instance_id),
    -- For forgetting.
    KEY by_end (kept_until)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
