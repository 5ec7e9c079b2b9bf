-- Shared head of every script on a line; it is put in front of each of them.
--
-- KEYS of one sale, all with its hash tag, always passed in this order:
--   1 head     hash: epoch, issued, serving, tokens (ranks that may be called now), at (ms of the last tick),
--                     gone_seq, gaps (`from-below,` pairs of ranks that nobody is known to have), amnesty_by (ms; see standing),
--                     run_id (of the Redis that it was made in)
--   2 users    hash: user id (16 bytes) -> arrival index
--   3 calls    sorted set: called rank -> ms when its claim window ends
--   4 slots    sorted set: admitted rank -> ms when its slot ends
--   5 present  sorted set: called rank that asked while all slots were taken; score = rank
--   6 ends     hash: rank -> f (finished) or l (left)
--   7 gone     sorted set: rank given up before its call -> sequence number
-- ARGV 1 the epoch that the caller knows, 2 what tests add to the clock (ms).
-- RETURNS {'cold'} where the head is missing, of another epoch or made in another Redis: nothing was changed.
-- ATOMIC because a script sees and changes the line as a whole: no rank can be called twice, no slot given twice.
local head, users, calls, slots, present, ends, gone = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]

local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[2])
end

-- Which Redis this is: another one after each start, so a line that was made in another one may be older than what was
-- answered from it.
local function run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
end

local function is_cold()
  local made = redis.call('HMGET', head, 'epoch', 'run_id')
  return made[1] ~= ARGV[1] or made[2] ~= run_id()
end

local function count(field)
  return tonumber(redis.call('HGET', head, field) or '0')
end

-- Takes lapsed calls and ended slots away, a bounded number at a time. Returns how many calls lapsed.
local function sweep(now)
  local lapsed = redis.call('ZRANGEBYSCORE', calls, '-inf', now, 'LIMIT', 0, 200)
  for _, rank in ipairs(lapsed) do
    redis.call('ZREM', calls, rank)
    redis.call('ZREM', present, rank)
  end
  for _, rank in ipairs(redis.call('ZRANGEBYSCORE', slots, '-inf', now, 'LIMIT', 0, 200)) do
    redis.call('ZREM', slots, rank)
    redis.call('HSET', ends, rank, 'f')
  end
  return #lapsed
end

-- Slots in use now, whether or not the ended ones were swept.
local function active(now)
  return redis.call('ZCOUNT', slots, '(' .. string.format('%.0f', now), '+inf')
end

-- Where a rank stands: a word, and the ms of what ends it (nil where nothing does). After a rebuild nobody knows who was
-- called: until amnesty_by every rank that was passed and left no record counts as called, so nobody lapses by the loss.
local function standing(rank, now)
  local slot = tonumber(redis.call('ZSCORE', slots, rank) or '')
  if slot then
    if slot > now then return 'admitted', slot end
    return 'finished'
  end
  local ended = redis.call('HGET', ends, rank)
  if ended == 'f' then return 'finished' end
  if ended == 'l' then return 'left' end
  if tonumber(rank) >= count('serving') then
    if redis.call('ZSCORE', gone, rank) then return 'left' end
    return 'waiting'
  end
  local by = tonumber(redis.call('ZSCORE', calls, rank) or '')
  if by and by > now then return 'called', by end
  local amnesty = count('amnesty_by')
  if amnesty > now then return 'called', amnesty end
  return 'lapsed'
end
