-- Tells where a rank stands. A present rank that looks keeps its place: its claim window starts again.
-- KEYS as in line.lua.
-- ARGV 1 epoch, 2 clock offset (ms), 3 rank, 4 claim window (ms).
-- RETURNS {'waiting' | 'called' | 'admitted' | 'finished' | 'left' | 'lapsed', ms or ''}, {'cold'}.
-- ATOMIC because a tick between two reads could show a rank that is neither called nor admitted.
if is_cold() then return {'cold'} end
local now = clock()
local where, by = standing(ARGV[3], now)
if where == 'called' and redis.call('ZSCORE', present, ARGV[3]) then
  by = math.max(by, now + tonumber(ARGV[4]))
  redis.call('ZADD', calls, by, ARGV[3])
end
return {where, by and ms(by) or ''}
