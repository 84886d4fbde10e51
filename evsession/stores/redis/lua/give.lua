-- give.lua: give the turn at a background job back before it lapses.
--
-- KEYS[1]  {ns:NN}:turn:<job>
-- ARGV[1]  holder   ARGV[2]  fence
--
-- Returns 1 | 0 when another holder has taken it
-- Cost    O(1)

local found = redis.call('HMGET', KEYS[1], 'holder', 'fence')
if found[1] ~= ARGV[1] or found[2] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'holder', '', 'until', 0)
return 1
