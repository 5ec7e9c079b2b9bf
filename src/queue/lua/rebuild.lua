-- Makes the line anew from what MySQL knows.
-- KEYS as in line.lua.
-- ARGV 1 the new epoch, 2 clock offset (ms), 3 issued (the ceiling: whatever lies below may have been given), 4 serving, then pairs: rank, ms when its slot ends.
-- RETURNS {'ok'}, or {'newer'} where the line is of this epoch or a later one already: nothing was changed.
-- ATOMIC because a half-made line would answer.
local epoch = tonumber(redis.call('HGET', head, 'epoch') or '0')
if epoch >= tonumber(ARGV[1]) then return {'newer'} end
redis.call('DEL', head, users, calls, slots, present, ends, gone)
redis.call('HSET', head, 'epoch', ARGV[1], 'issued', ARGV[3], 'serving', ARGV[4])
for i = 5, #ARGV, 2 do redis.call('ZADD', slots, ARGV[i + 1], ARGV[i]) end
return {'ok'}
