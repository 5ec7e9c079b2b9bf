-- The line while Redis is away: what Redis keeps in the head of a sale. A row of another epoch than its sale's is worth
-- nothing. Every step locks this row, so steps of one line follow each other.
CREATE TABLE queue_lines (
    concert_id BINARY(16) NOT NULL PRIMARY KEY,
    epoch INT UNSIGNED NOT NULL,
    issued BIGINT UNSIGNED NOT NULL,
    serving BIGINT UNSIGNED NOT NULL,
    calls_made BIGINT UNSIGNED NOT NULL DEFAULT 0,
    gone_seq BIGINT UNSIGNED NOT NULL DEFAULT 0,
    gaps VARCHAR(4000) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
    -- Until then every rank that was passed and left no record counts as called.
    amnesty_by DATETIME(6) NOT NULL,
    lobby_size BIGINT UNSIGNED NULL,
    is_drawn TINYINT UNSIGNED NOT NULL DEFAULT 0,
    -- Ranks that may be called now, as of that time, and how many more come per second.
    tokens DOUBLE NOT NULL DEFAULT 0,
    ticked_at DATETIME(6) NULL,
    pace DOUBLE NULL,
    cut_at DATETIME(6) NULL,
    -- How many came, by the eighth of their window, and how many did not; eight numbers and one, fading since faded_at.
    came VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
    faded_at DATETIME(6) NULL,
    -- Ranks of earlier epochs than this are deleted already.
    tidied_epoch INT UNSIGNED NOT NULL DEFAULT 0,
    CONSTRAINT queue_lines_sale FOREIGN KEY (concert_id) REFERENCES queue_sales (concert_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
