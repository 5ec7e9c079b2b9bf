-- Puts seats right that MySQL knows otherwise. A seat that has changed since it was compared stays as it is.
-- KEYS as in filter.lua.
-- ARGV 1 clock offset (ms), 2 how long a mark lasts (ms), then quintuples: the seat, what it was when it was compared (1 for
--   taken, and 2 for sold), ms when it was to be free by itself ('' where it was not), what it is in MySQL (h held, s sold,
--   f free), ms when its hold ends (0 for others).
-- RETURNS {'ok', how many were falsely taken, how many were falsely free}, {'cold'}.
-- ATOMIC because a claim between looking and changing would be overwritten.
if is_cold() then return {'cold'} end
local now, mark = clock(), tonumber(ARGV[2])
local freed, took = 0, 0
for i = 3, #ARGV, 5 do
  local seat, before, ends_before, is, by = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4])
  local found = redis.call('GETBIT', taken, seat) + 2 * redis.call('GETBIT', sold, seat)
  local over = end_of(seat)
  -- A seat that was marked for a request and is held now has the same bits, and another end.
  if found == before and (over and ms(over) or '') == ends_before then
    local was_free = found % 2 == 0
    if is == 's' then
      sell(seat)
      if was_free then took = took + 1 end
    elseif is == 'h' then
      -- A hold that is over by this clock ends by the other one in a moment.
      if by > now then
        hold(seat, by)
        if was_free then took = took + 1 end
      end
    else
      -- For whom it is marked may be on the way with it; if not, the mark ends by itself, unless the clock was set back.
      local is_marked = over and redis.call('HEXISTS', marks, seat) == 1
      if not is_marked or over <= now or over > now + mark then
        free(seat)
        freed = freed + 1
      end
    end
  end
end
bound_ends()
changed()
return {'ok', freed, took}
