-- Gives a place up, or frees the slot of a stay that has ended.
-- KEYS as in line.lua.
-- ARGV 1 epoch, 2 clock offset (ms), 3 rank, 4 'l' (left: by the buyer's wish) or 'f' (finished: MySQL has ended the pass).
--   Leaving frees no slot: the pass must end in MySQL first, or more passes than slots would be live.
-- RETURNS {where the rank stood}, {'cold'}.
-- ATOMIC because a tick must not call a rank that is just leaving, nor a slot be freed twice.
if is_cold() then return {'cold'} end
local rank = ARGV[3]
local where = standing(rank, clock())
if where == 'waiting' then
  redis.call('ZADD', gone, redis.call('HINCRBY', head, 'gone_seq', 1), rank)
elseif where == 'called' or (where == 'admitted' and ARGV[4] == 'f') then
  redis.call('ZREM', calls, rank)
  redis.call('ZREM', present, rank)
  redis.call('ZREM', slots, rank)
  redis.call('HSET', ends, rank, ARGV[4])
end
return {where}
