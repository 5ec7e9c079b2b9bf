-- Gives a user a place, or the one that the user has.
-- KEYS as in line.lua.
-- ARGV 1 epoch, 2 clock offset (ms), 3 user id (16 bytes), 4 the ceiling that MySQL is known to have,
--   5 and 6 arrival and rank of the place that the user proves, by a ticket or by its copy in MySQL, or '', 7 where that
--   copy was looked at: the user's newest arrival if that is over, else -1; else '', 8 '1' where new places are refused,
--   9 '1' for a sale with a draw, 10 opens (ms),
--   11 the lobby's size by which the caller draws, or '', 12 and 13 an arrival that this script asked for, with its rank, or ''.
-- RETURNS {'same' | 'new', arrival}, {'refused'}, {'ceiling', issued} where no index may be issued until the ceiling was
--   raised in MySQL, {'rank', arrival} where the rank of the user's place is needed, {'unknown'} where MySQL's copy is,
--   {'drawn'} where ranks are known by now, {'cold'}.
-- ATOMIC because looking for the user's place and issuing the next index must be one step: one place per user.
-- Nearly all who join are new: what that takes is read at once, the clock only where it matters.
local made = redis.call('HMGET', head, 'epoch', 'run_id', 'issued', 'unsure_below')
if is_cold(made) then return {'cold'} end
local issued, unsure_below = tonumber(made[3] or '0'), tonumber(made[4] or '0')
local is_draw, size = ARGV[9] == '1', tonumber(ARGV[11])
if is_draw then
  close_lobby(clock(), tonumber(ARGV[10]))
  if not size and redis.call('HGET', head, 'drawn') then return {'drawn'} end
end

-- Whether a place is still good; nothing where its rank is needed to tell.
local function is_live(arrival, rank)
  if is_draw and not redis.call('HGET', head, 'drawn') then
    -- Whoever gave the place up in the lobby is noted by arrival until the draw is done.
    if redis.call('ZSCORE', gone, 'q' .. arrival) then return false end
    if not size then return true end
  end
  if not is_draw or tonumber(arrival) >= size then rank = arrival end
  if rank == '' then return nil end
  local where = standing(rank, clock())
  return where == 'waiting' or where == 'called' or where == 'admitted'
end

local mine = redis.call('HGET', users, ARGV[3])
local proven = ARGV[5]
if proven ~= '' and tonumber(proven) >= issued then proven = '' end
local over = tonumber(ARGV[7])
if over then
  if mine and tonumber(mine) <= over then mine = false end
  if proven ~= '' and tonumber(proven) <= over then proven = '' end
end
-- Since the line was made anew its users lack some, and what is left of the others may be older than what was answered.
local is_sure = over or unsure_below == 0 or (mine and tonumber(mine) >= unsure_below)
if not is_sure and proven == '' then return {'unknown'} end
local function is_proof_good()
  if proven == '' or not is_live(proven, ARGV[6]) then return false end
  redis.call('HSET', users, ARGV[3], proven)
  return true
end
-- The newest place is the user's.
if mine and proven ~= '' and tonumber(proven) > tonumber(mine) and is_proof_good() then return {'same', proven} end
if mine then
  local live = is_live(mine, mine == ARGV[12] and ARGV[13] or '')
  if live == nil then return {'rank', mine} end
  if live then return {'same', mine} end
end
if is_proof_good() then return {'same', proven} end
if not is_sure then return {'unknown'} end
if ARGV[8] == '1' then return {'refused'} end
if issued >= tonumber(ARGV[4]) then return {'ceiling', tostring(issued)} end
redis.call('HINCRBY', head, 'issued', 1)
redis.call('HSET', users, ARGV[3], issued)
return {'new', tostring(issued)}
