-- Tells when seats are free by themselves.
-- KEYS as in filter.lua.
-- ARGV 1 clock offset (ms), then the seats.
-- RETURNS {'ok', then for each seat its end in ms, or ''}, {'cold'}.
-- ATOMIC because what is compared must be of one moment. Changes nothing.
if is_cold() then return {'cold'} end
local found = {'ok'}
for i = 2, #ARGV do
  local by = end_of(ARGV[i])
  found[i] = by and ms(by) or ''
end
return found
