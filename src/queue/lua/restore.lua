-- Tells a line that was made anew who had given up a place.
-- KEYS as in line.lua.
-- ARGV 1 epoch, 2 clock offset (ms), then pairs: arrival, rank or '' before the draw.
-- RETURNS {'ok'}, {'drawn'} where a rank is missing by now, {'cold'}.
-- ATOMIC because the line may have called a place meanwhile, which then is given up like any called one.
if is_cold() then return {'cold'} end
local drawn, serving = redis.call('HGET', head, 'drawn'), count('serving')
for i = 3, #ARGV, 2 do
  local rank = ARGV[i + 1]
  if rank == '' then
    if drawn then return {'drawn'} end
    rank = 'q' .. ARGV[i]
  end
  if rank ~= '' and tonumber(rank) and tonumber(rank) < serving then
    redis.call('ZREM', calls, rank)
    redis.call('ZREM', present, rank)
    redis.call('ZREM', ghosts, rank)
    redis.call('HSETNX', ends, rank, 'l')
  elseif not redis.call('ZSCORE', gone, rank) then
    redis.call('ZADD', gone, redis.call('HINCRBY', head, 'gone_seq', 1), rank)
  end
end
return {'ok'}
