-- Keeps a value, unless a newer one or a newer withdrawal is there, and ends the lease under which it was loaded.
-- KEYS as in entry.lua.
-- ARGV 1 the value with its head, 2 how long it is kept (ms), 3 the fencing number, 4 '1' where what is there is known to be broken.
-- RETURNS {'kept'} or {'old'}.
-- ATOMIC because what is newer must not come between the comparison and the writing, nor another's lease be ended.
if held() == ARGV[3] then redis.call('DEL', lease) end
local there, mine = head_of(value), read(string.sub(ARGV[1], 1, HEAD))
if there and ARGV[4] ~= '1' then
  local is_newer = there.generation == mine.generation
    and (there.version > mine.version or (there.version == mine.version and there.fence > mine.fence))
  -- A generation that is far ahead is none that was ever raised.
  if is_newer or (there.generation > mine.generation and there.generation < mine.generation + 1000) then
    return {'old'}
  end
end
redis.call('SET', value, ARGV[1], 'PX', ARGV[2])
return {'kept'}
