-- Makes the line anew from what MySQL knows. Who had which index, left or finished are facts that stay true: what Redis
-- still has of them is kept. Who is present must say so again where the line was elsewhere since, or is of an earlier time:
-- else somebody who came meanwhile would keep slots from others. So must the called where it was elsewhere; nobody lapses
-- before the amnesty ends. Slots are those of the live passes in MySQL and no others.
-- KEYS as in line.lua.
-- ARGV 1 the new epoch, 2 clock offset (ms), 3 issued (the ceiling: whatever lies below may have been given), 4 serving,
--   5 gaps (`from-below,` in ascending order; of ranks), 6 claim window (ms), 7 closes (ms), 8 the size of the lobby that was
--   drawn, or '', 9 how many of the numbers that follow are ranks of ghosts; the rest are pairs: rank, ms when its slot ends.
-- RETURNS {'ok'}, or {'newer'} where the line is of this epoch or a later one already: nothing was changed.
-- ATOMIC because a half-made line would answer.
local epoch = tonumber(redis.call('HGET', head, 'epoch') or '0')
if epoch >= tonumber(ARGV[1]) then return {'newer'} end
local serving = math.max(tonumber(ARGV[4]), count('serving'))
-- The sequence of places given up goes on, for those instances that have seen a part of it.
local newest = redis.call('ZREVRANGE', gone, 0, 0, 'WITHSCORES')
local gone_seq = math.max(count('gone_seq'), tonumber(newest[2] or '0'))
local was_elsewhere = epoch ~= tonumber(ARGV[1]) - 1
if was_elsewhere then redis.call('DEL', calls) end
if was_elsewhere or redis.call('HGET', head, 'run_id') ~= run_id() then redis.call('DEL', present) end
redis.call('DEL', head, slots)
redis.call('HSET', head, 'epoch', ARGV[1], 'issued', ARGV[3], 'serving', serving, 'run_id', run_id(), 'gaps', ARGV[5],
  'gone_seq', gone_seq, 'amnesty_by', ms(clock() + tonumber(ARGV[6])))
-- An empty line at its first making lacks nobody.
if ARGV[3] ~= '0' then redis.call('HSET', head, 'unsure_below', ARGV[3]) end
if ARGV[8] ~= '' then redis.call('HSET', head, 'lobby_size', ARGV[8], 'drawn', ARGV[8]) end
local slots_from = 10 + tonumber(ARGV[9])
for i = 10, slots_from - 1 do redis.call('ZADD', ghosts, 'NX', 0, ARGV[i]) end
for i = slots_from, #ARGV, 2 do
  redis.call('ZADD', slots, ARGV[i + 1], ARGV[i])
  -- Who was present here and got in elsewhere waits for no slot any more.
  redis.call('ZREM', calls, ARGV[i])
  redis.call('ZREM', present, ARGV[i])
end
local until_ms = ms(math.max(clock(), tonumber(ARGV[7])) - tonumber(ARGV[2]) + 86400000)
for _, key in ipairs(KEYS) do redis.call('PEXPIREAT', key, until_ms) end
return {'ok'}
