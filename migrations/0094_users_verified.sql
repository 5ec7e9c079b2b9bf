-- When a user showed that they read the mail of their address. NULL for who has not, and for whom instances register that do
-- not know the column.
ALTER TABLE users ADD COLUMN verified_at DATETIME(6) NULL;
