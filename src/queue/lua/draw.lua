-- Makes the ranks of a closed lobby count: from the last step on the line calls.
-- KEYS as in line.lua.
-- ARGV 1 epoch, 2 clock offset (ms), 3 the lobby's size as MySQL has committed it, 4 gaps behind the lobby (`from-below,` in
--   ascending order), 5 how many of the numbers that follow are ranks of ghosts; the rest are pairs of arrival and rank of
--   places that were given up in the lobby.
-- RETURNS {'ok', {arrival, ...}}: given up in the lobby, with their ranks still asked for; none where the draw is done. {'cold'}.
-- ATOMIC because a place that is being given up must be known by its arrival or by its rank, never by neither.
if is_cold() then return {'cold'} end
if redis.call('HGET', head, 'drawn') then return {'ok', {}} end
redis.call('HSET', head, 'lobby_size', ARGV[3])
local pairs_from = 6 + tonumber(ARGV[5])
for i = 6, pairs_from - 1 do redis.call('ZADD', ghosts, 'NX', 0, ARGV[i]) end
for i = pairs_from, #ARGV, 2 do
  if redis.call('ZREM', gone, 'q' .. ARGV[i]) == 1 then
    redis.call('ZADD', gone, redis.call('HINCRBY', head, 'gone_seq', 1), ARGV[i + 1])
  end
end
-- Those who know the draw leave by rank already, so ranks may stand in between.
local left, from = {}, 0
repeat
  local members = redis.call('ZRANGE', gone, from, from + 499)
  for _, member in ipairs(members) do
    if string.sub(member, 1, 1) == 'q' then left[#left + 1] = string.sub(member, 2) end
  end
  from = from + 500
until #members == 0 or #left >= 500
while #left > 500 do table.remove(left) end
if #left == 0 then redis.call('HSET', head, 'drawn', ARGV[3], 'gaps', ARGV[4]) end
return {'ok', left}
