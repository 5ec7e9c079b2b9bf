-- Tells what is taken, if it is not what the caller knows.
-- KEYS as in filter.lua.
-- ARGV 1 clock offset (ms), 2 the version that the caller knows, or ''.
-- RETURNS {'same'}, {'new', version, bitmap of what is taken, bitmap of what is sold}, {'cold'}.
-- ATOMIC because a change between two reads would show a seat sold and free.
if is_cold() then return {'cold'} end
sweep(clock(), 1000)
local version = redis.call('HGET', head, 'version')
if version == ARGV[2] then return {'same'} end
return {'new', version, redis.call('GET', taken) or '', redis.call('GET', sold) or ''}
