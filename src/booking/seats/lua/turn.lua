-- Gives the turn to compare the filter with MySQL to one caller a period, with what the filter says now.
-- KEYS as in filter.lua.
-- ARGV 1 clock offset (ms), 2 the period (ms).
-- RETURNS {'later'}, {'yours', bitmap of what is taken, bitmap of what is sold}, {'cold'}.
-- ATOMIC because two callers must not get the same turn, and what is compared must be of one moment.
if is_cold() then return {'cold'} end
local now = clock()
local before = tonumber(redis.call('HGET', head, 'reconciled_at') or '0')
-- A clock that was set back must not stop the turns.
if math.abs(now - before) < tonumber(ARGV[2]) then return {'later'} end
sweep(now, 1000)
redis.call('HSET', head, 'reconciled_at', ms(now))
keep()
return {'yours', redis.call('GET', taken) or '', redis.call('GET', sold) or ''}
