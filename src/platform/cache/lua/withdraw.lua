-- Makes what was loaded before a change void, also what is still being loaded.
-- KEYS as in entry.lua.
-- ARGV 1 a withdrawal: a head without a value, 2 how long it stands (ms), longer than any load takes.
-- RETURNS {'withdrawn'}, {'newer'} where what is there has the change in it.
-- ATOMIC because a loader who began before the change must find either the withdrawal or its own value withdrawn.
local there, mine = head_of(value), read(ARGV[1])
local _, heard = held()
if heard and heard < mine.version then redis.call('DEL', lease) end
if there and there.generation == mine.generation and there.version >= mine.version then return {'newer'} end
redis.call('SET', value, ARGV[1], 'PX', ARGV[2])
return {'withdrawn'}
