-- Moves the line on. Any instance may run it at any time; running it twice is harmless.
-- KEYS as in line.lua.
-- ARGV 1 epoch, 2 clock offset (ms), 3 ranks per second, 4 max_active, 5 claim window (ms), 6 opens (ms), 7 closes (ms),
--   8 '1' while nobody is to be called, 9 seats that could be sold now, 10 most ranks to call, 11 gone_seq that the caller has seen,
--   12 how many calls the caller has announced, 13 '1' for a sale with a draw, 14 what the caller's latency was lately:
--   'over' its objective, 'within' it, or '' where nothing was measured, 15 ms before which no call made now lapses.
-- RETURNS {'ok', now, issued, serving, active, called, lapsed, gone_seq, {member of gone, ...} since, present, calls made,
--   the closed lobby's size or '', the drawn lobby's size or '', ranks per second now, share of calls that nobody claims, what
--   binds: 'rate' | 'latency' | 'slots' | 'seats' | 'nobody' (waits) | 'closed'}, {'cold'}.
-- ATOMIC because the bucket, the slots and the calls are read and advanced together: ranks are called once and in order.
-- A clock that goes back refills nothing and reverses nothing.
if is_cold() then return {'cold'} end
local now = clock()
-- First of all a write that a Redis without memory refuses: what takes memory away again would hide it.
redis.call('HSET', head, 'ticked', ms(now))
sweep(now)
-- Also those that a claim took away.
local lapsed = count('lapsed')
if lapsed > 0 then redis.call('HDEL', head, 'lapsed') end
local rate, window, opens, closes = tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local issued, serving = count('issued'), count('serving')

-- Additive increase, multiplicative decrease: every two seconds over the objective take three tenths of the pace; half a
-- minute within it gives all of the rate back.
local cut_at = count('cut_at')
local pace = math.min(rate, tonumber(redis.call('HGET', head, 'pace') or ARGV[3]))
local at = math.max(count('at'), opens)
local since = math.max(0, now - at)
if ARGV[14] == 'over' then
  if now - cut_at >= 2000 then
    pace, cut_at = math.max(rate / 50, pace * 0.7), now
  end
elseif now - cut_at >= 2000 then
  pace = math.min(rate, pace + rate * since / 30000)
end

local tokens = count('tokens')
if now > at then
  -- At most one second's worth is saved up.
  tokens = math.min(math.max(pace, 1), tokens + pace * (now - at) / 1000)
  redis.call('HSET', head, 'at', ms(now))
  -- A day after the sale nobody asks any more. Set anew once a minute: keys come to be at any time.
  if math.floor(now / 60000) ~= math.floor(at / 60000) then
    local until_ms = ms(closes - tonumber(ARGV[2]) + 86400000)
    for _, key in ipairs(KEYS) do redis.call('PEXPIREAT', key, until_ms) end
  end
end
redis.call('HSET', head, 'pace', string.format('%.4f', pace), 'cut_at', ms(cut_at))

-- A line that was made anew by an instance that was late may know of fewer calls than another one has announced.
local announced = math.min(tonumber(ARGV[12]), issued)
if announced > serving then
  serving = announced
  -- An amnesty that runs already is not shortened.
  local by = math.max(count('amnesty_by'), now + window)
  redis.call('HSET', head, 'serving', serving, 'amnesty_by', ms(by))
end

-- How many of those called are still to come: for each eighth of the window that they have let pass, the share of those
-- who came later than that among all who had let it pass. Old observations fade, by half in two windows or a minute.
local came, lost = {}, count('lost')
for i = 0, 7 do came[i] = count('came' .. i) end
local faded_at = count('faded_at')
if now - faded_at >= 1000 then
  local left = 0.5 ^ ((now - faded_at) / math.max(60000, 2 * window))
  lost = lost * left
  local fields = {'faded_at', ms(now), 'lost', string.format('%.6f', lost)}
  for i = 0, 7 do
    came[i] = came[i] * left
    fields[#fields + 1] = 'came' .. i
    fields[#fields + 1] = string.format('%.6f', came[i])
  end
  redis.call('HSET', head, unpack(fields))
end
local later, share = 0, {}
for i = 7, 0, -1 do
  later = later + came[i]
  -- Two who came are taken for granted, so few observations move little.
  share[i] = math.max(0.05, (later + 2) / (later + lost + 2))
end
local in_use, called, here = active(now), redis.call('ZCARD', calls), redis.call('ZCARD', present)
-- Those present have come, and stand among the calls that are young.
local expected = here * (1 - share[0])
for i = 0, 7 do
  local from = '(' .. ms(now + window * (7 - i) / 8)
  local to = i == 0 and '+inf' or ms(now + window * (8 - i) / 8)
  expected = expected + share[i] * redis.call('ZCOUNT', calls, from, to)
end

local is_draw, drawn = ARGV[13] == '1', redis.call('HGET', head, 'drawn')
if is_draw then close_lobby(now, opens) end
local is_open = now >= opens and now < closes and ARGV[8] ~= '1' and (drawn or not is_draw)
local by_rate = math.floor(tokens)
local by_slots = math.floor((tonumber(ARGV[4]) - in_use - expected) / share[0] + 0.000001)
local by_seats = math.floor((tonumber(ARGV[9]) - expected) / share[0] + 0.000001)
local most = math.min(by_rate, by_slots, by_seats, tonumber(ARGV[10]))
local bound = pace < rate and 'latency' or 'rate'
if by_slots < by_rate and by_slots <= by_seats then bound = 'slots' end
if by_seats < by_rate and by_seats < by_slots then bound = 'seats' end
if serving >= issued then bound = 'nobody' end
if not is_open then most, bound = 0, 'closed' end

local n, steps = 0, 0
local by = ms(math.max(now + window, tonumber(ARGV[15])))
local gaps = redis.call('HGET', head, 'gaps') or ''
local function skip_gap()
  -- In one step, outside rate and slots: as a rule nobody is there, and whoever is may claim for a whole window.
  for from, below in string.gmatch(gaps, '(%d+)%-(%d+)') do
    if is_open and serving >= tonumber(from) and serving < tonumber(below) then
      serving = tonumber(below)
      redis.call('HSET', head, 'serving', serving, 'amnesty_by', ms(math.max(count('amnesty_by'), now + window)))
    end
  end
end
skip_gap()
while serving < issued and n < most and steps < 2000 do
  local rank = tostring(serving)
  if redis.call('ZREM', gone, rank) == 1 then
    redis.call('HSET', ends, rank, 'l')
  elseif redis.call('ZSCORE', ghosts, rank) then
    -- Whoever may be there is called, and as most likely nobody is, counts for nothing.
    redis.call('ZADD', ghosts, by, rank)
  else
    redis.call('ZADD', calls, by, rank)
    n = n + 1
  end
  serving = serving + 1
  steps = steps + 1
  skip_gap()
end
if steps > 0 then redis.call('HSET', head, 'serving', serving) end
if n > 0 then redis.call('HINCRBY', head, 'calls_made', n) end
redis.call('HSET', head, 'tokens', string.format('%.6f', tokens - n))

local left = redis.call('ZRANGEBYSCORE', gone, '(' .. ARGV[11], '+inf', 'LIMIT', 0, 1000, 'WITHSCORES')
local ranks, seen = {}, ARGV[11]
for i = 1, #left, 2 do
  ranks[#ranks + 1] = left[i]
  seen = left[i + 1]
end
local outcome = later + lost
return {'ok', ms(now), tostring(issued), tostring(serving), tostring(in_use), tostring(called + n), tostring(lapsed), seen,
  ranks, tostring(here), tostring(count('calls_made')), redis.call('HGET', head, 'lobby_size') or '', drawn or '',
  string.format('%.4f', pace), string.format('%.4f', outcome > 0 and lost / outcome or 0), bound}
