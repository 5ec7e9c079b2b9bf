-- Tells what was committed in MySQL.
-- KEYS as in filter.lua.
-- ARGV 1 clock offset (ms), then triples: what became of a seat (h held, m held by whose mark is on it, s sold, f free), the
--   seat, ms when its hold ends (0 for others).
-- RETURNS {'ok'}, {'cold'}.
-- ATOMIC because the seats of one hold are taken or freed together.
if is_cold() then return {'cold'} end
for i = 2, #ARGV, 3 do
  local what, seat = ARGV[i], ARGV[i + 1]
  if what == 's' then
    sell(seat)
  elseif what == 'f' then
    free(seat)
  elseif redis.call('GETBIT', sold, seat) == 0 and (what == 'h' or redis.call('GETBIT', taken, seat) == 1) then
    -- What is sold was held before, and what was marked and is free has been given back since: the news came late.
    hold(seat, ARGV[i + 2])
  end
end
bound_ends()
changed()
return {'ok'}
