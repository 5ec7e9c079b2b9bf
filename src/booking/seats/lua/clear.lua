-- Takes a filter away that has a key of another kind than it should have: nothing of it can be believed.
-- KEYS as in filter.lua.
-- ARGV none.
-- RETURNS {'cold'} where it was taken away, {'ok'} where all keys are as they should be: somebody has made it anew.
-- ATOMIC because a filter that was made anew in between must stay.
local kinds = {'hash', 'string', 'string', 'zset', 'hash'}
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= kinds[i] then
    redis.call('DEL', unpack(KEYS))
    return {'cold'}
  end
end
return {'ok'}
