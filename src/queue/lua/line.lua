-- Shared head of every script on a line; it is put in front of each of them.
--
-- KEYS of one sale, all with its hash tag, always passed in this order:
--   1 head     hash: epoch, run_id (of the Redis that it was made in), issued, serving, calls_made (without those of nobody),
--                     tokens (ranks that may be called now), at and ticked (ms of the last tick), gone_seq, gaps (`from-below,` pairs of
--                     ranks that nobody is known to have), amnesty_by (ms; see standing), unsure_below (users may lack some of the
--                     arrivals below, or have older ones),
--                     lobby_size (once the lobby closed), drawn (the same, once ranks are known);
--                     pace, cut_at (see tick.lua); came0 … came7, lost, faded_at (see tick.lua); lapsed (since the last tick)
--   2 users    hash: user id (16 bytes) -> arrival index
--   3 calls    sorted set: called rank -> ms when its claim window ends
--   4 slots    sorted set: admitted rank -> ms when its slot ends
--   5 present  sorted set: called rank that asked while all slots were taken; score = rank
--   6 ends     hash: rank -> f (finished) or l (left)
--   7 gone     sorted set: rank given up before its call, or q and the arrival before the draw -> sequence number
--   8 ghosts   sorted set: rank that a lost lobby may have given to somebody -> 0, once called: ms when its claim window ends
-- ARGV 1 the epoch that the caller knows, 2 what tests add to the clock (ms).
-- RETURNS {'cold'} where the head is missing, of another epoch or made in another Redis: nothing was changed.
-- ATOMIC because a script sees and changes the line as a whole: no rank can be called twice, no slot given twice.
local head, users, calls, slots, present, ends, gone, ghosts =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]

local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[2])
end

local function ms(number)
  return string.format('%.0f', number)
end

-- Which Redis this is: another one after each start, so a line that was made in another one may be older than what was
-- answered from it.
local function run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
end

-- By the head's epoch and run_id, where they were read already.
local function is_cold(made)
  made = made or redis.call('HMGET', head, 'epoch', 'run_id')
  return made[1] ~= ARGV[1] or made[2] ~= run_id()
end

local function count(field)
  return tonumber(redis.call('HGET', head, field) or '0')
end

-- Takes lapsed calls and ended slots away, a bounded number at a time.
local function sweep(now)
  local lapsed = redis.call('ZRANGEBYSCORE', calls, '-inf', now, 'LIMIT', 0, 200)
  for _, rank in ipairs(lapsed) do
    redis.call('ZREM', calls, rank)
    redis.call('ZREM', present, rank)
  end
  if #lapsed > 0 then
    redis.call('HINCRBYFLOAT', head, 'lost', #lapsed)
    redis.call('HINCRBY', head, 'lapsed', #lapsed)
  end
  for _, rank in ipairs(redis.call('ZRANGEBYSCORE', slots, '-inf', now, 'LIMIT', 0, 200)) do
    redis.call('ZREM', slots, rank)
    redis.call('HSET', ends, rank, 'f')
  end
  redis.call('ZREMRANGEBYSCORE', ghosts, 1, now)
end

-- Slots in use now, whether or not the ended ones were swept.
local function active(now)
  return redis.call('ZCOUNT', slots, '(' .. ms(now), '+inf')
end

-- Closes the lobby of a draw, once: whoever comes later ranks behind it.
local function close_lobby(now, opens)
  if now >= opens then redis.call('HSETNX', head, 'lobby_size', redis.call('HGET', head, 'issued') or '0') end
end

-- Where a rank stands: a word, the ms of what ends it (nil where nothing does), and whether it was called by its turn.
-- After a rebuild nobody knows who was called: until amnesty_by every rank that was passed and left no record counts as
-- called, so nobody lapses by the loss.
local function standing(rank, now)
  local slot = tonumber(redis.call('ZSCORE', slots, rank) or '')
  if slot then
    if slot > now then return 'admitted', slot end
    return 'finished'
  end
  local ended = redis.call('HGET', ends, rank)
  if ended == 'f' then return 'finished' end
  -- A gap, or a line made anew, may pass a place that was given up.
  if ended == 'l' or redis.call('ZSCORE', gone, rank) then return 'left' end
  if tonumber(rank) >= count('serving') then return 'waiting' end
  local by = tonumber(redis.call('ZSCORE', calls, rank) or '')
  if by and by > now then return 'called', by, true end
  by = math.max(count('amnesty_by'), tonumber(redis.call('ZSCORE', ghosts, rank) or '0'))
  if by > now then return 'called', by end
  return 'lapsed'
end
