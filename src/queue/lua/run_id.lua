-- Which Redis answers for a key.
-- KEYS 1 a key of the sale: in a cluster it says which node is asked. ARGV none.
-- RETURNS {the run_id: another one after each start}.
-- ATOMIC because it is one command.
return {string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')}
