-- Writes down that the shared tier holds what a warming loaded.
-- KEYS 1 a hash of marks: field = generation, concert and occasion, value = the round.
-- ARGV 1 the field, 2 the round, 3 milliseconds that the hash lives on, 4 most fields.
-- RETURNS {'ok'}.
-- ATOMIC because a hash that has grown too large begins anew with this mark in it: what is not marked is only loaded again.
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then
    redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'ok'}
