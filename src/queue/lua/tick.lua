-- Moves the line on. Any instance may run it at any time; running it twice is harmless.
-- KEYS as in line.lua.
-- ARGV 1 epoch, 2 clock offset (ms), 3 ranks per second, 4 max_active, 5 claim window (ms), 6 opens (ms), 7 closes (ms),
--   8 '1' while nobody is to be called, 9 seats that could be sold now, 10 most ranks to call, 11 gone_seq that the caller has seen,
--   12 how many calls the caller has announced.
-- RETURNS {'ok', now, issued, serving, active, called, lapsed, gone_seq, {rank, ...} given up since}, {'cold'}.
-- ATOMIC because the bucket, the slots and the calls are read and advanced together: ranks are called once and in order.
-- A clock that goes back refills nothing and reverses nothing.
if is_cold() then return {'cold'} end
local now = clock()
local lapsed = sweep(now)
local rate, opens, closes = tonumber(ARGV[3]), tonumber(ARGV[6]), tonumber(ARGV[7])

local issued, serving = count('issued'), count('serving')
local at = math.max(tonumber(redis.call('HGET', head, 'at') or '0'), opens)
local tokens = tonumber(redis.call('HGET', head, 'tokens') or '0')
if now > at then
  -- At most one second's worth is saved up.
  tokens = math.min(math.max(rate, 1), tokens + rate * (now - at) / 1000)
  redis.call('HSET', head, 'at', string.format('%.0f', now))
  -- A day after the sale nobody asks any more. Set anew once a minute: keys come to be at any time.
  if math.floor(now / 60000) ~= math.floor(at / 60000) then
    local until_ms = string.format('%.0f', closes - tonumber(ARGV[2]) + 86400000)
    for _, key in ipairs(KEYS) do redis.call('PEXPIREAT', key, until_ms) end
  end
end

-- A line that was made anew by an instance that was late may know of fewer calls than another one has announced.
local announced = math.min(tonumber(ARGV[12]), issued)
if announced > serving then
  serving = announced
  -- An amnesty that runs already is not shortened.
  local by = math.max(count('amnesty_by'), now + tonumber(ARGV[5]))
  redis.call('HSET', head, 'serving', serving, 'amnesty_by', string.format('%.0f', by))
end

local in_use, called = active(now), redis.call('ZCARD', calls)
local most = math.min(math.floor(tokens), tonumber(ARGV[4]) - in_use - called, tonumber(ARGV[9]) - called, tonumber(ARGV[10]))
local is_open = now >= opens and now < closes and ARGV[8] ~= '1'
if not is_open then most = 0 end
local n, steps = 0, 0
local gaps = redis.call('HGET', head, 'gaps') or ''
local function skip_gap()
  -- In one step, outside rate and slots: as a rule nobody is there, and whoever is may claim for a whole window.
  for from, below in string.gmatch(gaps, '(%d+)%-(%d+)') do
    if is_open and serving >= tonumber(from) and serving < tonumber(below) then
      serving = tonumber(below)
      redis.call('HSET', head, 'serving', serving, 'amnesty_by', string.format('%.0f', now + tonumber(ARGV[5])))
    end
  end
end
skip_gap()
while serving < issued and n < most and steps < 2000 do
  local rank = tostring(serving)
  if redis.call('ZREM', gone, rank) == 1 then
    redis.call('HSET', ends, rank, 'l')
  else
    redis.call('ZADD', calls, now + tonumber(ARGV[5]), rank)
    n = n + 1
  end
  serving = serving + 1
  steps = steps + 1
  skip_gap()
end
if steps > 0 then redis.call('HSET', head, 'serving', serving) end
redis.call('HSET', head, 'tokens', string.format('%.6f', tokens - n))

local left = redis.call('ZRANGEBYSCORE', gone, '(' .. ARGV[11], '+inf', 'LIMIT', 0, 1000, 'WITHSCORES')
local ranks, seen = {}, ARGV[11]
for i = 1, #left, 2 do
  ranks[#ranks + 1] = left[i]
  seen = left[i + 1]
end
return {'ok', string.format('%.0f', now), tostring(issued), tostring(serving), tostring(in_use), tostring(called + n),
  tostring(lapsed), seen, ranks}
