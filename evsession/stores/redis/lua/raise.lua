-- raise.lua: set a number of the namespace's meta data unless it is as high already.
--
-- KEYS[1]  {ns:meta}
-- ARGV[1]  field   ARGV[2]  number
--
-- Returns what stands there
-- Cost    O(1)

local known = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
if tonumber(ARGV[2]) <= known then return string.format('%.0f', known) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return ARGV[2]
