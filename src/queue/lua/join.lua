-- Gives a user a place, or the one that the user has.
-- KEYS as in line.lua.
-- ARGV 1 epoch, 2 clock offset (ms), 3 user id (16 bytes), 4 the ceiling that MySQL is known to have,
--   5 the arrival of the ticket that the user presents, or '', 6 '1' where new places are refused.
-- RETURNS {'same' | 'new', arrival}, {'refused'}, {'ceiling', issued} where no index may be issued until the ceiling was
--   raised in MySQL, {'cold'}.
-- ATOMIC because looking for the user's place and issuing the next index must be one step: one place per user.
if is_cold() then return {'cold'} end
local now = clock()
local mine = redis.call('HGET', users, ARGV[3])
if mine then
  local where = standing(mine, now)
  if where == 'waiting' or where == 'called' or where == 'admitted' then return {'same', mine} end
end
local issued = count('issued')
if ARGV[5] ~= '' and tonumber(ARGV[5]) < issued then
  -- The line was rebuilt without its users: the sealed ticket is proof enough.
  local where = standing(ARGV[5], now)
  if where == 'waiting' or where == 'called' or where == 'admitted' then
    redis.call('HSET', users, ARGV[3], ARGV[5])
    return {'same', ARGV[5]}
  end
end
if ARGV[6] == '1' then return {'refused'} end
if issued >= tonumber(ARGV[4]) then return {'ceiling', tostring(issued)} end
redis.call('HINCRBY', head, 'issued', 1)
redis.call('HSET', users, ARGV[3], issued)
return {'new', tostring(issued)}
