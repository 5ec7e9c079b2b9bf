-- Sets seats aside for a request, all or none, while MySQL is asked.
-- KEYS as in filter.lua.
-- ARGV 1 clock offset (ms), 2 how long the mark lasts (ms), 3 whether a refusal tells all that is taken (1) or not (0),
--   4 whose request it is, or '', 5… seats. What is marked for somebody is no obstacle to the same one: who repeats a request
--   whose instance died must not be refused because of it.
-- RETURNS {'granted', ms when the mark ends}, {'refused', bitmap of all that is taken or '', seats that cannot be had…}, {'cold'}.
-- ATOMIC because looking and marking must be one step: of any number who ask for a seat at once, one goes to MySQL.
if is_cold() then return {'cold'} end
local now = clock()
sweep(now, 100)
local refused = {}
for i = 5, #ARGV do
  local seat = ARGV[i]
  if redis.call('GETBIT', taken, seat) == 1 then
    local by = end_of(seat)
    -- What is over counts as free, swept or not.
    local is_own = ARGV[4] ~= '' and redis.call('HGET', marks, seat) == ARGV[4]
    if (not by or by > now) and not is_own then refused[#refused + 1] = seat end
  end
end
if #refused > 0 then
  return {'refused', ARGV[3] == '1' and redis.call('GET', taken) or '', unpack(refused)}
end
local mark = now + tonumber(ARGV[2])
for i = 5, #ARGV do
  hold(ARGV[i], mark)
  redis.call('HSET', marks, ARGV[i], ARGV[4])
end
bound_ends()
changed()
return {'granted', ms(mark)}
