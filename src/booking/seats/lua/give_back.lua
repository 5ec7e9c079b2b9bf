-- Takes the marks of a request back. A seat that somebody has marked or held since stays as it is.
-- KEYS as in filter.lua.
-- ARGV 1 clock offset (ms), 2 when the mark ends (ms), 3… seats.
-- RETURNS {'ok'}, {'cold'}.
-- ATOMIC because a seat that is marked anew between looking and freeing would be given twice.
if is_cold() then return {'cold'} end
local mark = tonumber(ARGV[2])
for i = 3, #ARGV do
  if end_of(ARGV[i]) == mark then free(ARGV[i]) end
end
changed()
return {'ok'}
