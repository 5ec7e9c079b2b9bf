-- Gives a place up, or frees the slot of a stay that has ended.
-- KEYS as in line.lua.
-- ARGV 1 epoch, 2 clock offset (ms), 3 arrival, 4 rank, or '' before the draw, 5 'l' (left: by the buyer's wish) or 'f'
--   (finished: MySQL has ended the pass). Leaving frees no slot: the pass must end in MySQL first, or more passes than slots
--   would be live.
-- RETURNS {where the place stood}, {'drawn'} where ranks are known by now, {'cold'}.
-- ATOMIC because a tick must not call a rank that is just leaving, nor a slot be freed twice.
if is_cold() then return {'cold'} end
local rank, where = ARGV[4], 'lobby'
if rank == '' then
  if redis.call('HGET', head, 'drawn') then return {'drawn'} end
  rank = 'q' .. ARGV[3]
else
  where = standing(rank, clock())
end
if where == 'waiting' or where == 'lobby' then
  if not redis.call('ZSCORE', gone, rank) then
    redis.call('ZADD', gone, redis.call('HINCRBY', head, 'gone_seq', 1), rank)
  end
elseif where == 'called' or (where == 'admitted' and ARGV[5] == 'f') then
  redis.call('ZREM', calls, rank)
  redis.call('ZREM', present, rank)
  redis.call('ZREM', ghosts, rank)
  redis.call('ZREM', slots, rank)
  redis.call('HSET', ends, rank, ARGV[5])
end
return {where}
