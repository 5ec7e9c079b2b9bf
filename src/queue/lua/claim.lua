-- Exchanges a call for a slot. Claiming again gives the same slot.
-- KEYS as in line.lua.
-- ARGV 1 epoch, 2 clock offset (ms), 3 rank, 4 max_active, 5 claim window (ms), 6 session length (ms).
-- RETURNS {'admitted', ms when the slot ends}, {'full', ''} where all slots are taken or a lower present rank comes first:
--   the rank is present now and its window starts again; {'waiting' | 'finished' | 'left' | 'lapsed', ''}, {'cold'}.
-- ATOMIC because counting the slots and taking one must be one step: never more than max_active.
if is_cold() then return {'cold'} end
local now = clock()
sweep(now)
local rank = ARGV[3]
local where, by, is_by_turn = standing(rank, now)
if where == 'admitted' then return {where, ms(by)} end
if where ~= 'called' then return {where, ''} end
local window = tonumber(ARGV[5])
if is_by_turn and not redis.call('ZSCORE', present, rank) then
  -- Somebody came: after which eighth of the window tells how many of those still out will come.
  local age = math.floor((now + window - by) * 8 / window)
  redis.call('HINCRBYFLOAT', head, 'came' .. math.max(0, math.min(7, age)), 1)
end
local first = redis.call('ZCOUNT', present, '-inf', '(' .. rank)
if active(now) + first < tonumber(ARGV[4]) then
  local slot = now + tonumber(ARGV[6])
  redis.call('ZREM', calls, rank)
  redis.call('ZREM', present, rank)
  redis.call('ZREM', ghosts, rank)
  redis.call('ZADD', slots, slot, rank)
  return {'admitted', ms(slot)}
end
redis.call('ZADD', present, rank, rank)
redis.call('ZADD', calls, math.max(by, now + window), rank)
return {'full', ''}
