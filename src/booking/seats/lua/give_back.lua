-- Takes the marks of a request back: what the seats are in MySQL comes in their place. A seat that somebody has marked or held
-- since stays as it is.
-- KEYS as in filter.lua.
-- ARGV 1 clock offset (ms), 2 when the mark ends (ms), then triples: what the seat is in MySQL (f free, h held, s sold), the
--   seat, ms when its hold ends (0 for others).
-- RETURNS {'ok'}, {'cold'}.
-- ATOMIC because a seat that is marked anew between looking and freeing would be given twice.
if is_cold() then return {'cold'} end
local mark = tonumber(ARGV[2])
for i = 3, #ARGV, 3 do
  local what, seat = ARGV[i], ARGV[i + 1]
  if end_of(seat) == mark then
    if what == 's' then
      sell(seat)
    elseif what == 'h' then
      hold(seat, ARGV[i + 2])
    else
      free(seat)
    end
  end
end
bound_ends()
changed()
return {'ok'}
