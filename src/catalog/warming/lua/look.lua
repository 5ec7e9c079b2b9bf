-- Tells which marks are there.
-- KEYS 1 the hash of marks.
-- ARGV the fields.
-- RETURNS the round of each field, '' where there is none.
-- ATOMIC because all marks are to be of the same moment.
local marks = {}
for place, field in ipairs(ARGV) do
    marks[place] = redis.call('HGET', KEYS[1], field) or ''
end
return marks
