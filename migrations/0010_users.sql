-- People and operators.
CREATE TABLE users (
    id BINARY(16) NOT NULL PRIMARY KEY,
    -- Lower-cased by the application and then compared byte for byte: a collation that ignores case ignores
    -- accents too, and would take two people's addresses for one. NULL once erased.
    email VARCHAR(254) NULL,
    name VARCHAR(100) NOT NULL,
    -- argon2id in PHC format; empty once erased, which no password matches.
    password_hash VARCHAR(255) NOT NULL,
    -- 0 buyer, 1 operator.
    role TINYINT UNSIGNED NOT NULL,
    created_at DATETIME(6) NOT NULL,
    erased_at DATETIME(6) NULL,
    UNIQUE KEY by_email (email)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
