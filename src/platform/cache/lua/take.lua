-- Gives a value that will do, or else the lease to load it to one caller at a time.
-- KEYS as in entry.lua.
-- ARGV 1 format of the value, 2 generation, 3 least version, 4 and 5 when it may have been made (first and last microsecond),
--   6 how long a lease lasts (ms), 0: none is wanted, -1: nor the value, 7 the last change that the caller has heard of.
-- RETURNS {'found', value}, {'there'}, {'yours', fencing number}, {'taken', ms until the lease ends}, {'none'}.
-- ATOMIC because of two callers who find nothing only one may get the lease, and none who could have found something.
local head = head_of(value)
if head and head.kind == tonumber(ARGV[1]) and head.what < 2 and head.generation == tonumber(ARGV[2])
  and head.version >= tonumber(ARGV[3]) and head.made >= tonumber(ARGV[4]) and head.made <= tonumber(ARGV[5]) then
  if ARGV[6] == '-1' then return {'there'} end
  return {'found', redis.call('GET', value)}
end
if tonumber(ARGV[6]) <= 0 then return {'none'} end
local left = redis.call('PTTL', lease)
if left > 0 then return {'taken', tostring(left)} end
local time = redis.call('TIME')
-- Higher than any before, also where the last one was lost or the clock was set back.
local last = tonumber(redis.call('GET', fence) or '0')
local number = string.format('%.0f', math.max(last + 1, time[1] * 1000000 + time[2]))
redis.call('SET', fence, number, 'PX', 600000)
redis.call('SET', lease, number .. ':' .. ARGV[7], 'PX', ARGV[6])
return {'yours', number}
