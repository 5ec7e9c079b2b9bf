-- Shared head of every script on a performance's seat filter; it is put in front of each of them.
--
-- KEYS of one performance, all with the hash tag of its sale, always passed in this order:
--   1 head   hash: seats (how many there are), version (raised by every change, and higher in each filter than in the one
--                  before), made_at, reconciled_at (ms)
--   2 taken  bitmap, most significant bit first: seats that cannot be held
--   3 sold   bitmap: those of them that are sold or out of sale
--   4 ends   sorted set: seat that is taken for a time -> ms when it is free: the end of its hold, or of the mark of a request
--   5 marks  hash: seat that is marked for a request -> whose request it is, or ''
-- ARGV 1 what tests add to the clock (ms).
-- RETURNS {'cold'} where the head is missing: nothing was changed.
-- ATOMIC because a script sees and changes a performance as a whole: of several who ask for a seat, one gets it.
local head, taken, sold, ends, marks = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
-- How long a filter outlives its last reconciliation (ms).
local KEPT = 600000

local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[1])
end

local function ms(number)
  return string.format('%.0f', number)
end

local function is_cold()
  return redis.call('EXISTS', head) == 0
end

local function changed()
  redis.call('HINCRBY', head, 'version', 1)
end

-- When a seat is free by itself; nil where it is not.
local function end_of(seat)
  return tonumber(redis.call('ZSCORE', ends, seat) or '')
end

local function free(seat)
  redis.call('SETBIT', taken, seat, 0)
  redis.call('SETBIT', sold, seat, 0)
  redis.call('ZREM', ends, seat)
  redis.call('HDEL', marks, seat)
end

local function hold(seat, by)
  redis.call('SETBIT', taken, seat, 1)
  redis.call('SETBIT', sold, seat, 0)
  redis.call('ZADD', ends, by, seat)
  redis.call('HDEL', marks, seat)
end

local function sell(seat)
  redis.call('SETBIT', taken, seat, 1)
  redis.call('SETBIT', sold, seat, 1)
  redis.call('ZREM', ends, seat)
  redis.call('HDEL', marks, seat)
end

-- Frees the first seats whose time is over.
local function sweep(now, limit)
  local due = redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, limit)
  if #due == 0 then return end
  for _, seat in ipairs(due) do redis.call('SETBIT', taken, seat, 0) end
  redis.call('HDEL', marks, unpack(due))
  redis.call('ZREMRANGEBYRANK', ends, 0, #due - 1)
  changed()
end

-- What was empty is a new key: it must not stay for ever.
local function bound_ends()
  for _, key in ipairs({ends, marks}) do
    if redis.call('PTTL', key) == -1 then redis.call('PEXPIRE', key, math.max(1, redis.call('PTTL', head))) end
  end
end

local function keep()
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, KEPT) end
end
