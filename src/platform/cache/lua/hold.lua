-- Makes a lease last on, or ends it: by its holder alone.
-- KEYS as in entry.lua.
-- ARGV 1 the fencing number, 2 how long it lasts from now (ms), 0: it ends.
-- RETURNS {'held'}, {'lost'} where it is not, or no longer, the caller's.
-- ATOMIC because between looking and changing the lease could become another's.
if held() ~= ARGV[1] then return {'lost'} end
if ARGV[2] == '0' then redis.call('DEL', lease) else redis.call('PEXPIRE', lease, ARGV[2]) end
return {'held'}
