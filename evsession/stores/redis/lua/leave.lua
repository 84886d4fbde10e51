-- leave.lua: take a session out of the index of its user.
--
-- KEYS[1]  {ns:u<hh>}:u:<user>  sid -> "<time> <device>"
-- ARGV[1]  sid   ARGV[2]  when it entered, "" for whenever
--
-- Returns 1 if it went, else 0
-- Cost    O(1)

local found = redis.call('HGET', KEYS[1], ARGV[1])
if not found or (ARGV[2] ~= '' and string.match(found, '^%d+') ~= ARGV[2]) then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
