-- Which Redis answers for a key, and that it takes writes: one that only reads keeps no line.
-- KEYS 1 a key of the sale that holds nothing else: in a cluster it says which node is asked. ARGV none.
-- RETURNS {the run_id: another one after each start}.
-- ATOMIC because what was written must be in the Redis that is named.
redis.call('SET', KEYS[1], '1', 'PX', 10000)
return {string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')}
