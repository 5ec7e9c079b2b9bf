-- Shared head of every script on a value of the cache; it is put in front of each of them.
--
-- KEYS of one value, all with a hash tag of its own (values of one cache spread over a cluster), in this order:
--   1 value  a head of 48 bytes, then the value's bytes: format, format of the value, what it is (0 value, 1 known to be
--            absent, 2 withdrawn), 0, generation, version, fencing number, when it was made (microseconds), length, checksum
--   2 lease  who loads it now: fencing number, ':', the last change that the loader had heard of when it began
--   3 fence  the last fencing number given out
-- ARGV of each script stand there.
-- RETURNS of each script too.
-- ATOMIC because of two who want to write, the one who has heard less must lose, whichever comes last.
local value, lease, fence = KEYS[1], KEYS[2], KEYS[3]
local FORMAT, HEAD = 1, 48

-- The head's parts; nothing where there is no head of this format.
local function read(text)
  if #text < HEAD then return nil end
  local format, kind, what, _, generation, version, number, made = struct.unpack('>BBBBI8I8I8i8', text)
  if format ~= FORMAT then return nil end
  return {kind = kind, what = what, generation = generation, version = version, fence = number, made = made}
end

local function head_of(key)
  return read(redis.call('GETRANGE', key, 0, HEAD - 1))
end

-- A lease's fencing number and the change that its holder had heard of.
local function held()
  local number, heard = string.match(redis.call('GET', lease) or '', '^(%d+):(%d+)$')
  return number, tonumber(heard)
end
