-- Makes a filter from what MySQL knows, where there is none.
-- KEYS as in filter.lua.
-- ARGV 1 clock offset (ms), 2 how many seats there are, 3 bitmap of what is taken, 4 bitmap of what is sold, then pairs: a seat
--   that is held, ms when its hold ends.
-- RETURNS {'ok'}, {'there'} where there is a filter: nothing was changed.
-- ATOMIC because a half-made filter would answer, and the second of two callers must not undo what was told to the first's.
if not is_cold() then return {'there'} end
local now = clock()
redis.call('DEL', ends, marks)
redis.call('SET', taken, ARGV[3])
redis.call('SET', sold, ARGV[4])
for i = 5, #ARGV, 2 do redis.call('ZADD', ends, ARGV[i + 1], ARGV[i]) end
-- What was committed while MySQL was read is missing: the next turn is due at once.
redis.call('HSET', head, 'seats', ARGV[2], 'made_at', ms(now), 'reconciled_at', '0', 'version', ms(now * 1000))
keep()
return {'ok'}
